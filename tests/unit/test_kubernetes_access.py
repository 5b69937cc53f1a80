"""Addresses of a cluster stack: this machine's, and those that everybody's records may hold."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from matcha import planning
from matcha.access import Output, SharedAccess, shared_url
from matcha.components.mlflow import MLflow
from matcha.errors import NotProvisioned
from matcha.targets.kubernetes.access import ClusterAccess, InsideAccess, roles_of
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.secrets import Secrets
from matcha.targets.kubernetes.setting import for_jobs, setting
from support.access import FolderAccess


def test_shared_records_get_the_port_that_is_the_same_everywhere(tmp_path: Path) -> None:
    options = KubernetesOptions(ports={"mlflow": 6001})  # may be written in one user's file alone
    wanted = planning.want([MLflow(MLflow.Options())], ())
    found = setting(options, wanted.services, wanted.environments)
    access = ClusterAccess(
        found,
        roles_of(found.services),
        Secrets(Cluster(options)),
        lambda: {"mlflow/http": 6002},
        tmp_path.joinpath,
        lambda _: nullcontext({}),
    )
    assert isinstance(access, SharedAccess)
    assert access.url("experiment-tracker") == "http://127.0.0.1:6002"
    preferred = found.services[0].ports[0].preferred
    assert shared_url(access, "experiment-tracker") == f"http://127.0.0.1:{preferred}"
    with pytest.raises(NotProvisioned):
        access.shared_url("pipeline")


def test_where_nobody_else_comes_the_address_is_this_machine_s(tmp_path: Path) -> None:
    access = FolderAccess(tmp_path, {"experiment-tracker": "http://127.0.0.1:5001"})
    assert shared_url(access, "experiment-tracker") == "http://127.0.0.1:5001"


def held(*names: str) -> Secrets:
    """Of a stack that has these, each its own name; the cluster does not answer."""
    found = Secrets(Cluster(KubernetesOptions()))
    found._read = {name: f"value of {name}" for name in names}
    return found


def accesses(tmp_path: Path, secrets: Secrets) -> tuple[ClusterAccess, InsideAccess]:
    """As users have it, and jobs."""
    found = setting(KubernetesOptions(), [], [])
    here = ClusterAccess(
        found, {}, secrets, lambda: {"object-store/http": 6003}, tmp_path.joinpath, lambda _: nullcontext({})
    )
    return here, InsideAccess(for_jobs(found), secrets, here)


def test_jobs_have_other_keys_than_users(tmp_path: Path) -> None:
    names = ("object-store-access-key", "object-store-secret-key")
    theirs = tuple(name.replace("store-", "store-jobs-") for name in names)
    users, jobs = accesses(tmp_path, held(*names, *theirs))
    for access, keys in ((users, names), (jobs, theirs)):
        found = access.store_env()
        for variable, name in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys, strict=True):
            assert found[variable] == Output(f"value of {name}", sensitive=True)
    assert jobs.store_env()["AWS_ENDPOINT_URL"].value == "http://object-store:7070"
