"""The whole stack as pods on a real node: one that is made here (as root), or the cluster of --kubeconfig."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster import ClusterMatcha
from support.killing import Provisioned, provision_killed_at_every_step
from support.outside import Outside
from support.package_index import wheel
from support.scaled import Scaled
from support.steady import application_of
from support.stores import close_all
from support.sweep import is_whole

SCRIPTS = Path(__file__).resolve().parents[1] / "e2e" / "cluster"
UP_SECONDS = 3600.0  # the first time it builds Kubernetes itself
ONLY_PIPELINES = "components:\n  model-deployer: null\n  monitoring: null\n"
ONLY_A_TRACKER = "components:\n  pipeline: null\n  model-deployer: null\n  monitoring: null\n"


# What only a pod shows: that it is replaced, and is told. Of every life the one that needs no environment and
# no database.
SAMPLE = (
    "test_a_component_lives_through_everything[data-version-control-dvc]",
    "test_live_files_change_under_the_running_process",
    "test_a_killed_provision_is_finished_by_the_next[6.0]",
    "test_a_steady_load_through_whatever_happens[75]",
    "test_a_deleted_pod_comes_back_with_its_data[zenml]",
    "test_a_deleted_pod_comes_back_with_its_data[object-store]",
    "test_it_starts_again_on_a_machine_that_comes_back_at_once[without a word]",
    "test_what_ends_by_itself_never_starts_again[137]",
    "test_what_ends_by_itself_never_starts_again[0]",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = [i for i in items if Path(__file__).parent in i.path.parents]
    for item in here:
        item.add_marker(pytest.mark.e2e)
        item.add_marker(pytest.mark.timeout(1800))
    if not is_whole(config):
        left = [i for i in here if i.get_closest_marker("sweep") and i.name not in SAMPLE]
        config.hook.pytest_deselected(items=left)
        items[:] = [i for i in items if i not in left]


@pytest.fixture(scope="session")
def kubeconfig(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Of a cluster's administrator."""
    if given := request.config.getoption("--kubeconfig"):
        yield Path(given).expanduser().resolve()
        return
    if os.getuid() != 0:
        reason = "a node needs root; or name a cluster with --kubeconfig"
        (pytest.fail if os.environ.get("MATCHA_REQUIRE_ALL") else pytest.skip)(reason)
    with tempfile.TemporaryDirectory(prefix="matcha-node-") as folder:
        state = Path(folder) / "state"
        try:
            subprocess.run([SCRIPTS / "up", state], check=True, timeout=UP_SECONDS, stdin=subprocess.DEVNULL)
            yield state / "admin.kubeconfig"
        finally:
            subprocess.run([SCRIPTS / "down", state], check=False, timeout=300, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def provisioned(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provisioned]:
    """In a namespace of its own, which provision makes; killed at every step of the first provision."""
    matcha = ClusterMatcha.of_team(tmp_path_factory.mktemp("a team's stack"), kubeconfig)
    try:
        yield Provisioned(matcha, provision_killed_at_every_step(matcha))
    finally:
        matcha.remove()


@pytest.fixture(scope="session")
def stack(provisioned: Provisioned) -> ClusterMatcha:
    return provisioned.matcha


@pytest.fixture(scope="session")
def team(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterMatcha]:
    """That trains: without serving and monitoring. Its stack goes with the last test of test_running_jobs."""
    folder = tmp_path_factory.mktemp("a team that trains")
    with ClusterMatcha.provisioned(folder, kubeconfig, ONLY_PIPELINES) as made:
        yield made


@pytest.fixture(scope="session")
def scaled(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scaled]:
    """That serves, with two replicas, `movie` of one of its three versions. Its stack goes with the last test
    of test_stack_exposed.
    """
    matcha = ClusterMatcha.of_team(tmp_path_factory.mktemp("a team that serves"), kubeconfig)
    made = Scaled(matcha)
    try:
        made.provision()
        made.log_models()
        made.deploy(1)
        yield made
    finally:
        matcha.kubectl("delete", "namespace", application_of(matcha), "--ignore-not-found", "--wait=false")
        matcha.remove()


@pytest.fixture
def tracker(kubeconfig: Path, tmp_path: Path) -> Iterator[ClusterMatcha]:
    """A stack that is not provisioned yet: MLflow on its database, and nothing that has to be built."""
    made = ClusterMatcha.of_team(tmp_path, kubeconfig, ONLY_A_TRACKER)
    try:
        yield made
    finally:
        made.drop()


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture(scope="module")
def outside(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """Servers that no stack made. They go with the file: a node with pods of nobody cannot be drained."""
    folder = tmp_path_factory.mktemp("outside")
    namespace = f"matcha-outside-{secrets.token_hex(3)}"
    made = Outside(ClusterMatcha(folder / "project", folder / "home", kubeconfig, namespace))
    try:
        made.start({"shiny-1.0-py3-none-any.whl": wheel("shiny")})
        yield made
    finally:
        made.remove()
