"""What jobs may do at the stack's own object store: by the account that its pod makes, at the real server."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lightkube.models.core_v1 import Container
from lightkube.resources.apps_v1 import StatefulSet

from matcha import planning, registry
from matcha.component import Component
from matcha.targets.kubernetes import desired
from matcha.targets.kubernetes.code import POD_CODE
from matcha.targets.kubernetes.foundations import ACCOUNTS
from matcha.targets.kubernetes.inside.matcha_pod import accounts, multipart, relay
from matcha.targets.kubernetes.inside.matcha_pod.ending import Deadline, Failed
from matcha.targets.kubernetes.inside.matcha_pod.s3 import Answer, Asked, Place, Store
from matcha.targets.kubernetes.names import STORE
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.setting import BUCKET, setting
from support.objectstore import ACCESS_KEY, SECRET_KEY, ObjectStore, object_store

pytestmark = pytest.mark.stack

JOBS = ("-jobs_1", "another-secret")
PROGRAM = POD_CODE / "matcha_pod" / "accounts.py"
ADMIN = b"<Account><Access>eve</Access><Secret>eve</Secret><Role>admin</Role></Account>"
CLOSED = ("backups/databases-1.sql.gz", "monitoring/capture/1", "artifacts/1/model.pkl", "mine/1", "top")
READABLE = ("environments/workspace-1.tar.gz", "jobs/code-1.tar.gz")
AREAS = ("datasets", "pipelines")


class Volumes(NamedTuple):
    """Of the store's pod."""

    data: Path
    accounts: Path


def components() -> list[Component]:
    found = registry.component_catalogue()
    return [cls(cls.Options()) for flavors in found.values() for cls in flavors.values()]


def pod(lent: tuple[str, ...] | None = None) -> tuple[Container, Container]:
    """The containers of the store's pod, the one before the server first. `lent`: None for the areas of a
    stack that holds all there is.
    """
    areas = planning.lent(components()) if lent is None else lent
    objects = desired.laid(setting(KubernetesOptions(), [], [], lent=areas))[STORE]
    [spec] = [obj.spec.template.spec for obj in objects if isinstance(obj, StatefulSet)]
    return spec.initContainers[0], spec.containers[0]


def begin(volumes: Volumes, keys: tuple[str, str] = JOBS, lent: tuple[str, ...] | None = None) -> None:
    """As a pod does before the server."""
    before, _ = pod(lent)
    subprocess.run(command(before, volumes), env=environ(keys), check=True, timeout=60)


def command(before: Container, volumes: Volumes) -> list[str]:
    _, *program = before.command or ()
    at = {f"/data/{BUCKET}": str(volumes.data / BUCKET), ACCOUNTS: str(volumes.accounts)}
    return [sys.executable, *program, *(at.get(each, each) for each in before.args or ())]


def environ(keys: tuple[str, str]) -> dict[str, str]:
    return {accounts.ACCESS_KEY: keys[0], accounts.SECRET_KEY: keys[1]}


def serving(volumes: Volumes) -> Any:
    return object_store(volumes.data, "--iam-dir", str(volumes.accounts))


@pytest.fixture
def volumes(tmp_path: Path) -> Volumes:
    made = Volumes(tmp_path / "data", tmp_path / "accounts")
    for folder in made:
        folder.mkdir()
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    made = Volumes(tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("accounts"))
    begin(made)
    with serving(made) as running:
        root = client(running, (ACCESS_KEY, SECRET_KEY))
        for key in (*CLOSED, *READABLE, "datasets/1", "pipelines/1"):
            put(root, key, key.encode())
        root.ask(Asked("PUT", Place("other", "")))
        root.ask(Asked("PUT", Place("other", "1"), body=b"1"))
        yield running


@pytest.fixture
def root(store: ObjectStore) -> Store:
    return client(store, (ACCESS_KEY, SECRET_KEY))


@pytest.fixture
def job(store: ObjectStore) -> Store:
    return client(store, JOBS)


def client(store: ObjectStore, keys: tuple[str, str]) -> Store:
    about = {"AWS_ENDPOINT_URL": store.url, "AWS_ACCESS_KEY_ID": keys[0], "AWS_SECRET_ACCESS_KEY": keys[1]}
    return Store(about, Deadline(60))


def put(store: Store, key: str, body: bytes = b"1", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return store.ask(Asked("PUT", Place(BUCKET, key), headers=named, body=body))


def get(store: Store, key: str) -> bytes:
    return store.ask(Asked("GET", Place(BUCKET, key))).body


def delete(store: Store, key: str) -> None:
    store.ask(Asked("DELETE", Place(BUCKET, key)))


def asked(store: Store, query: Mapping[str, str], method: str = "GET", **more: Any) -> Answer:
    return store.ask(Asked(method, Place(BUCKET, ""), query, **more))


def summed(body: bytes) -> dict[str, str]:
    return {"Content-MD5": b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()}


def refused(store: Store, asked: Asked) -> None:
    with pytest.raises(Failed) as caught:
        store.ask(asked)
    assert caught.value.status == 403, str(caught.value)


# -- what they may -----------------------------------------------------------------------------------------


def test_the_server_has_the_accounts_that_its_pod_made() -> None:
    before, server = pod()
    assert "--iam-dir" in server.args[: server.args.index("posix")]  # type: ignore[index,union-attr]
    assert server.args[server.args.index("--iam-dir") + 1] == ACCOUNTS  # type: ignore[index,union-attr]
    for container in (before, server):
        assert {"accounts": ACCOUNTS, "data": "/data"}.items() <= {
            each.name: each.mountPath for each in container.volumeMounts or ()
        }.items()


@pytest.mark.parametrize("key", READABLE)
def test_a_job_reads_its_environment_and_its_code(job: Store, key: str) -> None:
    assert get(job, key) == key.encode()
    assert job.ask(Asked("HEAD", Place(BUCKET, key))).size == len(key)


@pytest.mark.parametrize("area", AREAS)
def test_a_job_has_the_areas_of_clients_for_itself(job: Store, area: str) -> None:
    assert asked(job, {"list-type": "2", "prefix": f"{area}/"}).all("Key") == [f"{area}/1"]
    put(job, f"{area}/a/b")
    put(job, f"{area}/a/c", x_amz_copy_source=f"{BUCKET}/{area}/a/b", body=b"")
    assert get(job, f"{area}/a/c") == b"1"
    large = [b"x" * multipart.PART, b"y"]
    multipart.upload(job, Place(BUCKET, f"{area}/a/d"), large, {})
    assert asked(job, {"list-type": "2", "prefix": f"{area}/a/"}).all("Key") == [
        f"{area}/a/{n}" for n in "bcd"
    ]
    inner = "".join(f"<Object><Key>{area}/a/{name}</Key></Object>" for name in "bc")
    wishes = f"<Delete>{inner}<Object><Key>backups/databases-1.sql.gz</Key></Object></Delete>".encode()
    done = asked(job, {"delete": ""}, "POST", body=wishes, headers=summed(wishes))
    assert done.all("Code") == ["AccessDenied"] and len(done.all("Deleted")) == 2
    delete(job, f"{area}/a/d")
    assert asked(job, {"list-type": "2", "prefix": f"{area}/"}).all("Key") == [f"{area}/1"]


def test_what_is_not_there_is_missing_and_not_refused(job: Store) -> None:
    """Clients look whether something is there before they write it."""
    for key in ("datasets", "datasets/none", "pipelines/none", "jobs/relay/none/1.answer"):
        with pytest.raises(Failed) as caught:
            job.ask(Asked("HEAD", Place(BUCKET, key)))
        assert caught.value.status == 404
    assert asked(job, {"location": ""}).status == asked(job, {"versioning": ""}).status == 200


def test_a_job_asks_whoever_follows_it(
    store: ObjectStore, job: Store, root: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = relay.address(f"s3://{BUCKET}", "train-x1")
    for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), JOBS, strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    monkeypatch.setenv(relay.ADDRESS, where)
    done = threading.Event()

    def follow() -> None:
        while not done.wait(0.05):
            for number, text in relay.asked(root, where).items():
                relay.answer(root, where, number, f"{text} it is")

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        assert relay.ask("deploy", 30) == "deploy it is"
    finally:
        done.set()
        follower.join(30)
    assert relay.asked(root, where) == {}


# -- what they may not -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", CLOSED)
def test_what_is_nobody_s_but_the_stack_s_is_closed_to_jobs(job: Store, root: Store, key: str) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        refused(job, Asked(method, Place(BUCKET, key)))
    for source in (f"{BUCKET}/{key}", f"{BUCKET}%2F{key}", f"{BUCKET}/datasets/../{key}"):
        refused(job, Asked("PUT", Place(BUCKET, "datasets/copy"), headers={"x-amz-copy-source": source}))
    refused(job, Asked("POST", Place(BUCKET, key), {"uploads": ""}))
    assert get(root, key) == key.encode()


@pytest.mark.parametrize("key", READABLE)
def test_nobody_s_environment_or_code_is_another_s_to_change(job: Store, root: Store, key: str) -> None:
    for method in ("PUT", "DELETE"):
        refused(job, Asked(method, Place(BUCKET, key)))
        refused(job, Asked(method, Place(BUCKET, f"jobs/relay/../../{key}")))
    refused(job, Asked("POST", Place(BUCKET, key), {"uploads": ""}))
    assert get(root, key) == key.encode()


def test_a_way_out_of_an_area_leads_nowhere(job: Store) -> None:
    for key in ("datasets/../backups/databases-1.sql.gz", "datasets/./../top"):
        for method in ("GET", "PUT", "DELETE"):
            refused(job, Asked(method, Place(BUCKET, key)))
    out = asked(job, {"list-type": "2", "prefix": "datasets/../backups/"})
    assert not out.all("Key") and not out.all("Prefix")[1:]


@pytest.mark.parametrize(
    "prefix", ["", "d", "backups/", "monitoring/", "artifacts/", "environments/", "jobs/"]
)
def test_names_are_listed_in_the_areas_alone(job: Store, prefix: str) -> None:
    for query in ({"list-type": "2"}, {}, {"versions": ""}, {"uploads": ""}):
        refused(job, Asked("GET", Place(BUCKET, ""), {**query, **({"prefix": prefix} if prefix else {})}))


def test_a_job_has_no_other_bucket(job: Store) -> None:
    refused(job, Asked("GET", Place("other", "1")))
    refused(job, Asked("PUT", Place("other", "2")))
    refused(job, Asked("GET", Place("other", ""), {"list-type": "2"}))
    refused(job, Asked("PUT", Place("new", "")))
    assert job.ask(Asked("GET", Place("", ""))).all("Name") == []


def test_a_job_gives_itself_no_rights(job: Store) -> None:
    for what in ("policy", "acl", "versioning", "cors", "tagging", "ownershipControls"):
        refused(job, Asked("PUT", Place(BUCKET, ""), {what: ""}, summed(b"<X/>"), b"<X/>"))
    for query in ({"policy": ""}, {}):
        refused(job, Asked("DELETE", Place(BUCKET, ""), query))
    refused(job, Asked("GET", Place(BUCKET, ""), {"policy": ""}))
    for command in ("create-user", "update-user", "delete-user", "list-users", "change-bucket-owner"):
        refused(job, Asked("PATCH", Place(command, ""), {"access": JOBS[0], "owner": JOBS[0]}, body=ADMIN))


def test_without_the_right_keys_nothing_is_open(store: ObjectStore) -> None:
    refused(client(store, (JOBS[0], "guessed")), Asked("GET", Place(BUCKET, "datasets/1")))
    with pytest.raises(Failed):
        client(store, ("guessed", JOBS[1])).ask(Asked("GET", Place(BUCKET, "datasets/1")))


def test_the_policy_is_one_that_the_server_itself_takes(root: Store) -> None:
    """It is put where the server keeps it, which checks nothing there."""
    held = asked(root, {"policy": ""}).body
    asked(root, {"policy": ""}, "PUT", body=held)
    assert json.loads(asked(root, {"policy": ""}).body) == json.loads(held)
    assert len(held) < 2000  # it has to fit into an attribute


# -- made again and again ----------------------------------------------------------------------------------


def test_without_areas_a_job_reads_what_it_runs_and_no_more(volumes: Volumes) -> None:
    begin(volumes, lent=())
    with serving(volumes) as running:
        for key in (*READABLE, "datasets/1"):
            put(client(running, (ACCESS_KEY, SECRET_KEY)), key)
        job = client(running, JOBS)
        assert [get(job, key) for key in READABLE] == [b"1", b"1"]
        refused(job, Asked("GET", Place(BUCKET, "datasets/1")))
        refused(job, Asked("GET", Place(BUCKET, ""), {"prefix": "datasets/"}))


def test_other_keys_take_the_place_of_those_before(volumes: Volumes) -> None:
    begin(volumes)
    with serving(volumes) as running:
        put(client(running, JOBS), "datasets/1")
    begin(volumes, fresh := ("other", "keys"))
    with serving(volumes) as running:
        assert get(client(running, fresh), "datasets/1") == b"1"
        assert get(client(running, (ACCESS_KEY, SECRET_KEY)), "datasets/1") == b"1"
        with pytest.raises(Failed) as caught:
            get(client(running, JOBS), "datasets/1")
        assert "does not know the access key" in str(caught.value)


def test_a_bucket_that_was_there_before_is_opened_as_well(volumes: Volumes) -> None:
    """One of an earlier Matcha, with what lies in it."""
    (volumes.data / BUCKET).mkdir()
    with object_store(volumes.data) as running:
        put(client(running, (ACCESS_KEY, SECRET_KEY)), "datasets/1")
        put(client(running, (ACCESS_KEY, SECRET_KEY)), "backups/1")
    begin(volumes)
    with serving(volumes) as running:
        job = client(running, JOBS)
        assert get(job, "datasets/1") == b"1"
        put(job, "datasets/2", b"", x_amz_copy_source=f"{BUCKET}/datasets/1")
        refused(job, Asked("GET", Place(BUCKET, "backups/1")))


def test_a_start_that_was_cut_short_is_made_up_for(volumes: Volumes) -> None:
    """By a kill before each thing that it does."""
    before, _ = pod()
    text = PROGRAM.read_text()
    for line in (
        "account = {",
        "_write(accounts,",
        "_open(bucket, policy.",
        "fresh.replace(",
        "os.setxattr(bucket, P",
    ):
        assert text.count(line) == 1
        cut = text.replace(line, f"os.kill(os.getpid(), {signal.SIGKILL:d}); {line}")
        program = [cut if each == text else each for each in command(before, volumes)]
        done = subprocess.run(program, env=environ(JOBS), check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL
    begin(volumes)
    whole = {name: os.getxattr(volumes.data / BUCKET, name) for name in (accounts.POLICY, accounts.ACL)}
    begin(volumes)
    assert whole == {name: os.getxattr(volumes.data / BUCKET, name) for name in whole}
    assert (volumes.accounts / accounts.USERS).stat().st_mode & 0o777 == 0o600
    with serving(volumes) as running:
        put(client(running, JOBS), "datasets/1")


@pytest.mark.parametrize(
    ("number", "starts"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.ENOTSUP, False)]
)
def test_a_full_volume_does_not_keep_the_store_from_starting(
    volumes: Volumes, monkeypatch: pytest.MonkeyPatch, number: int, starts: bool
) -> None:
    """Who wants to make room needs it. What jobs may do is what they might before, or nothing."""

    def full(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    before, _ = pod()
    monkeypatch.setattr(os, "setxattr", full)
    monkeypatch.setattr(sys, "argv", ["-c", *command(before, volumes)[-3:]])
    for name, value in environ(JOBS).items():
        monkeypatch.setenv(name, value)
    if not starts:
        with pytest.raises(SystemExit, match="does not take the attributes"):
            runpy.run_path(str(PROGRAM), run_name="__main__")
        return
    runpy.run_path(str(PROGRAM), run_name="__main__")
    with serving(volumes) as running:
        refused(client(running, JOBS), Asked("GET", Place(BUCKET, "datasets/1")))
