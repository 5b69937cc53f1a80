"""A stack on a database and an object store that are not Matcha's, both behind certificates of their own,
made from nothing by two users at once who have no right but the ready Role.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from matcha.targets.kubernetes.names import LOCK
from support.clients import client
from support.cluster import ClusterMatcha
from support.matcha import until
from support.outside import ACCESS_KEY, BUCKET, DATABASE, REGION, SECRET_KEY, STORE, Outside
from support.pages import marked

pytestmark = pytest.mark.turn(1)

PASSWORD = "p@ss/w:rd %?#&"

LOG_RUN = """
import mlflow
with mlflow.start_run() as run:
    mlflow.log_metric("rmse", 0.5)
    mlflow.log_text("kept outside", "notes/readme.txt")
assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/notes/readme.txt") == "kept outside"
print(run.info.run_id)
"""

# As mlflow reaches it, but by an address that the certificate does not name.
BY_ADDRESS = """
import os, socket
from sqlalchemy import create_engine
from sqlalchemy.engine import URL
def tried(host):
    query = {"ssl_ca": os.environ["SSL_CERT_FILE"], "ssl_check_hostname": "true"}
    user, word = os.environ["MATCHA_DATABASE_USER"], os.environ["MATCHA_DATABASE_MLFLOW_PASSWORD"]
    url = URL.create("mysql+pymysql", user, word, host, 3306, "mlflow", query)
    try:
        create_engine(url).connect().close()
    except Exception as error:
        return str(error).splitlines()[0]
    return "connected"
print(tried("HOST"))
print(tried(socket.gethostbyname("HOST")))
"""


class Team(NamedTuple):
    """Two users of one stack, each on a machine of their own, and what their first provisions said."""

    ada: ClusterMatcha
    bob: ClusterMatcha
    said: list[str]


@pytest.fixture(scope="module")
def team(outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Provisioned by both at once, in a namespace that an administrator made for them."""
    folder, namespace = tmp_path_factory.mktemp("team"), f"matcha-test-{secrets.token_hex(3)}"
    outside.space(namespace)
    _prepare(outside, namespace)
    users = []
    for name in ("ada", "bob"):
        config = outside.user(name, namespace)
        users.append(ClusterMatcha(folder / name, folder / f"home of {name}", config, namespace))
        (users[-1].project / "matcha.yaml").write_text(_file(outside, namespace))
    try:
        runs = [
            user.popen("provision", "--yes", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for user in users
        ]
        said = [run.communicate(timeout=600)[0] for run in runs]
        assert [run.returncode for run in runs] == [0, 0], said
        yield Team(*users, said)
    finally:
        for user in users:
            user.remove()
        outside.admin.kubectl("delete", "namespace", namespace, "--wait=false", code=None)


def _prepare(outside: Outside, namespace: str) -> None:
    """What docs/kubernetes.md has administrator and users do first."""
    grants, keys = marked(__file__)
    outside.sql(grants.text.replace("PASSWORD", PASSWORD))
    words = {"PASSWORD": PASSWORD, "ACCESS_KEY": ACCESS_KEY, "SECRET_KEY": SECRET_KEY}
    commands = keys.text.replace("--namespace matcha-docs ", f"--namespace {namespace} ")
    for word, value in words.items():
        commands = commands.replace(f"'{word}'", f"'{value}'")
    outside.admin.shell(commands)


def _file(outside: Outside, namespace: str) -> str:
    return f"""
target: kubernetes
targets:
  kubernetes:
    namespace: {namespace}
    storage: s3://{BUCKET}/team-a?endpoint={outside.url(STORE)}&region={REGION}
    storage-secret: my-keys
    database: {outside.url(DATABASE)}?tls=true
    database-secret: my-database
    ca-bundle: {outside.ca}
components:
  model-deployer: null
  monitoring: null
"""


def test_of_two_who_provision_from_nothing_one_finds_nothing_to_do(team: Team) -> None:
    made, waited = sorted(team.said, key=lambda said: "Nothing to do" in said)
    assert "Ready in" in made
    assert "Nothing to do" in waited and "waiting" in waited
    assert team.ada.is_healthy() and team.bob.is_healthy()
    assert team.ada.objects("leases", f"--field-selector=metadata.name={LOCK}") == []


def test_a_run_and_its_artifact_are_outside(team: Team, outside: Outside) -> None:
    run = client(team.bob, LOG_RUN).split()[-1]
    assert run in outside.sql("SELECT run_uuid FROM mlflow.runs").split()
    [note] = [key for key in outside.objects() if key.endswith("notes/readme.txt")]
    assert note.startswith("team-a/") and run in note
    assert outside.content(note) == "kept outside"
    assert team.ada.objects("statefulsets,persistentvolumeclaims,cronjobs") == []


def test_the_databases_certificate_and_name_are_checked(team: Team, outside: Outside) -> None:
    """Tried by an administrator: the Role has no right to run commands in pods."""
    code, admin = BY_ADDRESS.replace("HOST", outside.host(DATABASE)), outside.admin.kubeconfig
    where = (f"--kubeconfig={admin}", f"--namespace={team.ada.namespace}")
    by_name, by_address = team.ada.kubectl(
        "exec", *where, "deployment/mlflow", "--", "python", "-c", code
    ).splitlines()
    assert outside.sql("SELECT @@require_secure_transport").strip() == "1"
    assert by_name == "connected"
    assert "certificate verify failed" in by_address and "mismatch" in by_address


def test_a_bucket_that_is_missing_is_told(team: Team, outside: Outside) -> None:
    assert not [key for key in outside.objects() if "probe-" in key]
    file = team.ada.project / "matcha.yaml"
    text = file.read_text()
    file.write_text(text.replace(f"s3://{BUCKET}/", "s3://there-is-none/"))
    try:
        done = team.ada("provision", "--yes", code=1)
    finally:
        file.write_text(text)
    said = " ".join(f"{done.stdout} {done.stderr}".split())
    assert "bucket-check did not come up" in said
    assert "refused GET s3://there-is-none/: it has no such bucket." in said
    team.ada("provision", "--yes")
    assert team.ada.is_healthy()


def test_status_has_the_memory_of_pods(team: Team) -> None:
    """Which the cluster measures every some seconds."""

    def used() -> int:
        parts = {part["role"]: part["memory"] for part in team.ada.json("status")["components"]}
        return int(parts["experiment-tracker"])

    assert until(lambda: max(used(), 0), 90, every=2) > 50 * 2**20


def test_what_is_outside_stays(team: Team, outside: Outside) -> None:
    said = team.ada("destroy", "--yes", "--delete-data").stderr
    assert f"Objects of the stack stay in s3://{BUCKET}/team-a: they are yours." in said
    assert f"Tables of the stack stay on {outside.url(DATABASE)}: they are yours." in said
    assert [key for key in outside.objects() if key.endswith("notes/readme.txt")]
    assert int(outside.sql("SELECT COUNT(*) FROM zenml.stack")) > 0
    assert outside.sql("SELECT COUNT(*) FROM mlflow.runs").strip() == "1"
    left = team.ada.objects(
        "pods,deployments,services,configmaps,secrets,serviceaccounts,networkpolicies,leases"
    )
    names = {f"{o['kind']}/{o['metadata']['name']}" for o in left}
    given = {"Secret/my-keys", "Secret/my-database", "ServiceAccount/default", "ConfigMap/kube-root-ca.crt"}
    assert names == given
    assert "forwards to a stack that is gone" in team.bob("destroy", "--yes").stdout
    assert team.ada.processes() == [] and team.bob.processes() == []
