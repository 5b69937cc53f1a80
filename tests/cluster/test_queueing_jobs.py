"""Training jobs against a real API server and a real object store: what is made, for whom, and what is left
when it is cut off.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from lightkube import Client
from lightkube.models.core_v1 import LimitRangeItem, LimitRangeSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import LimitRange, Secret
from lightkube.resources.scheduling_v1 import PriorityClass

from matcha.access import Output
from matcha.api import _relayed, serving
from matcha.api.types import DeployResult
from matcha.component import Deployment
from matcha.errors import BadInput, MatchaError, NotFound, NotProvisioned
from matcha.events import Event, silent
from matcha.job import Demand, RemoteJob
from matcha.service import Environment
from matcha.targets.kubernetes import KubernetesTarget, archives, permissions
from matcha.targets.kubernetes.inside.matcha_pod import relay
from matcha.targets.kubernetes.inside.matcha_pod.ending import Deadline
from matcha.targets.kubernetes.inside.matcha_pod.s3 import Store
from matcha.targets.kubernetes.jobs import priority, queue
from matcha.targets.kubernetes.options import Pool
from support.apiserver import as_user
from support.faults import Fault, FaultyProxy
from support.kubelet import Kubelet, running, waiting, well
from support.matcha import until
from support.objectstore import ACCESS_KEY, SECRET_KEY, ObjectStore, object_store
from support.rights import grant
from support.small_stack import SmallStack, there
from support.stores import cluster

POINTS = 3
RUN = """
import sys
from pathlib import Path
from test_queueing_jobs import of, submitted
folder, kubeconfig, namespace, store = sys.argv[1:]
print(submitted(of(Path(folder), Path(kubeconfig), namespace, store).target(), Path(folder)))
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    (tmp_path / "buckets" / "company").mkdir(parents=True)
    with object_store(tmp_path / "buckets") as made:
        yield made


def of(folder: Path, kubeconfig: Path, namespace: str, store: str) -> SmallStack:
    """As anybody has it whose options say where its storage is, and that nodes may come."""
    made = SmallStack(folder, kubeconfig, namespace)
    made.options |= {
        "storage": f"s3://company/ml?endpoint={store}",
        "storage_secret": "keys",
        "pools": {"some": Pool(cpu=4, memory="8Gi")},
    }
    return made


@pytest.fixture
def client(api_server: Path, namespace: str) -> Client:
    return cluster(api_server, namespace).client


@pytest.fixture
def training(
    tmp_path: Path,
    through: tuple[FaultyProxy, Path],
    namespace: str,
    node: Kubelet,
    store: ObjectStore,
    client: Client,
) -> Iterator[SmallStack]:
    keys = {"access-key": ACCESS_KEY, "secret-key": SECRET_KEY}
    client.create(Secret(metadata=ObjectMeta(name="keys"), stringData=keys))
    made = of(tmp_path, through[1], namespace, store.url)
    made.provision()
    node.says["job"] = running
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("print('trains')\n")
    yield made
    through[0].heal()
    priority.remove(cluster(through[1], namespace))


def submitted(target: KubernetesTarget, folder: Path, demand: Demand | None = None) -> str:
    return target.submit(described(folder, demand), silent)


def described(folder: Path, demand: Demand | None = None) -> RemoteJob:
    return RemoteJob(
        command=("python", "train.py"),
        shown=("python", "train.py"),
        project=folder / "code",
        demand=demand or Demand(),
        env={"PLAIN": Output("1"), "KEY": Output("hunter2-hunter2", sensitive=True)},
        image="team/torch:2",
    )


def in_environment(folder: Path, environment: Environment | None = None) -> RemoteJob:
    """One that runs in an environment which has to be built."""
    (folder / "lock").touch()
    environment = environment or Environment(name="workspace", lock=folder / "lock")
    return msgspec.structs.replace(described(folder), image="", environment=environment)


def uploaded(store: ObjectStore) -> list[str]:
    return sorted(p.name for p in (store.folder / "company" / "ml" / "jobs").glob("*"))


def test_a_job_is_queued_with_what_it_needs_alone(
    training: SmallStack, store: ObjectStore, client: Client, tmp_path: Path
) -> None:
    name = submitted(training.target(), tmp_path)
    job, secret = client.get(Job, name), client.get(Secret, name)
    assert job.metadata and secret.metadata and job.spec and job.spec.template.spec
    [owner] = secret.metadata.ownerReferences or ()
    assert owner.uid == job.metadata.uid
    assert set(secret.data or {}) == {"KEY"}
    assert "hunter2" not in str(job.to_dict())
    assert job.spec.template.spec.priorityClassName == priority.name(training.namespace)
    assert len(uploaded(store)) == 1
    other = submitted(training.target(), tmp_path)
    assert other != name and len(uploaded(store)) == 1  # the same code is brought once
    target = training.target()
    assert [j.name for j in target.jobs()] in ([name, other], [other, name])
    until(lambda: {j.condition for j in target.jobs()} == {"running"}, 30)


@pytest.mark.parametrize("image", ["Team/torch:2", "team/torch:2 --privileged", "https://example.com/torch"])
def test_what_is_no_image_is_refused(training: SmallStack, tmp_path: Path, image: str) -> None:
    """A node would say so once the job has its turn, and again and again."""
    job = msgspec.structs.replace(described(tmp_path), image=image)
    with pytest.raises(BadInput, match=f'"{image}" is no name of an image'):
        training.target().submit(job, silent)
    assert not training.target().jobs()


def test_an_environment_that_no_job_has_used_for_a_month_goes(
    training: SmallStack, store: ObjectStore, client: Client, tmp_path: Path
) -> None:
    folder = store.folder / "company" / "ml" / "environments"
    folder.mkdir(parents=True)
    setting, old = training.target()._known(), time.time() - 40 * 86400
    (tmp_path / "lock").touch()
    mine, other = (Environment(name="workspace", lock=tmp_path / "lock", python=p) for p in ("", ">=3.11"))
    archive, others = (Path(archives.placed(setting, e, "amd64")).name for e in (mine, other))

    def ran(environment: Environment) -> str:
        return training.target().submit(in_environment(tmp_path, environment), silent)

    def there() -> set[str]:
        return {file.name for file in folder.iterdir() if file.suffix != ".used"}

    kept = {archive, others, "workspace-34-x86_64.tar.gz", "mlserver-12.tar.gz"}
    for name in (*kept, "workspace-12-x86_64.tar.gz"):
        (folder / name).write_bytes(b"an archive")
        os.utime(folder / name, (old, old))
    (folder / "workspace-34-x86_64.tar.gz.used").touch()
    (folder / f"{others}.used").touch()
    job = ran(mine)
    assert there() == kept  # the last one is of the stack itself
    os.utime(folder / f"{archive}.used", (old, old))
    ran(other)
    assert there() == kept  # the job may come to read it again
    client.delete(Job, job)
    until(lambda: job not in {j.metadata.name for j in client.list(Job) if j.metadata}, 60)
    ran(other)
    assert there() == kept - {archive}


def test_what_a_job_runs_in_is_built_behind_servers(
    training: SmallStack, client: Client, tmp_path: Path
) -> None:
    training.target().submit(in_environment(tmp_path), silent)
    [build] = [j for j in client.list(Job) if "build-workspace" in str(j.metadata and j.metadata.name)]
    assert build.spec and build.spec.template.spec
    assert build.spec.template.spec.priorityClassName == priority.name(training.namespace)


def test_who_interrupts_the_building_of_an_environment_is_told_that_it_goes_on(
    training: SmallStack, node: Kubelet, tmp_path: Path
) -> None:
    node.says["environment-builder"] = running
    heard: list[str] = []

    def emit(event: Event) -> None:
        heard.append(event.message)
        if event.phase == "progress" and event.subject == "environment/workspace":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.target().submit(in_environment(tmp_path), emit)
    assert heard[-1].startswith("It goes on being built")


def test_steps_of_a_pipeline_run_the_same_code_and_say_what_they_are(
    training: SmallStack, store: ObjectStore, client: Client, tmp_path: Path
) -> None:
    target = training.target()
    like = described(tmp_path)
    like = msgspec.structs.replace(like, code=target.bring(like, silent), pipeline="movies")
    (tmp_path / "code" / "train.py").write_text("print('changed while it runs')\n")
    sizes = {"load": Demand(cpu=0.2), "train_model": Demand(memory="2Gi")}
    names = {
        step: target.submit(msgspec.structs.replace(like, step=step, demand=demand), silent)
        for step, demand in sizes.items()
    }
    assert names["train_model"].startswith("train-model-")
    assert uploaded(store) == [like.code.rpartition("/")[2]]
    found = {job.step: job for job in target.jobs()}
    assert {(job.pipeline, job.command) for job in found.values()} == {("movies", ("python", "train.py"))}
    assert (found["load"].cpu, found["train_model"].memory) == (0.2, "2Gi")
    assert target.job(names["load"]).step == "load"
    assert "matcha-ml/step" not in (client.get(Job, submitted(target, tmp_path)).metadata.annotations or {})  # type: ignore[union-attr]


def test_who_has_the_documented_role_runs_lists_and_ends_jobs(
    training: SmallStack, api_server: Path, store: ObjectStore, client: Client, tmp_path: Path
) -> None:
    """No right on nodes and priorities, which are in no namespace."""
    grant(api_server, training.namespace, permissions.role(), "alice")
    hers = of(tmp_path / "hers", as_user(api_server, "alice"), training.namespace, store.url)
    target = hers.target()
    assert "You may not list nodes" in target.check_remote(Demand(gpu=8))[0]
    name = submitted(target, tmp_path)
    job = client.get(Job, name)
    assert job.spec and job.spec.template.spec and job.spec.template.spec.priorityClassName is None
    assert [j.name for j in target.jobs()] == [name]
    target.cancel(name)
    until(lambda: target.job(name).condition == "cancelled", 60)
    assert "cancelled by" in target.job(name).detail


@pytest.fixture(autouse=True)
def _hers(tmp_path: Path) -> None:
    (tmp_path / "hers").mkdir()


def test_a_job_that_is_none_is_not_found(training: SmallStack) -> None:
    target = training.target()
    for ask in (target.job, target.cancel, lambda n: list(target.follow(n, silent, lines=1))):
        with pytest.raises(NotFound, match='no job "nobody"'):
            ask("nobody")
    with pytest.raises(NotFound):  # a Job of the stack's own is none of its users'
        target.job(next(j.metadata.name for j in cluster(training.kubeconfig, training.namespace).found(Job)))


def test_stop_refuses_while_a_job_is_not_over(training: SmallStack, tmp_path: Path) -> None:
    name = submitted(training.target(), tmp_path)
    with pytest.raises(MatchaError, match=f"would be ended: {name}"):
        training.stop()
    training.target().cancel(name)
    until(lambda: training.target().job(name).condition == "cancelled", 60)
    training.stop()


def test_what_the_namespace_does_not_allow_is_told(
    training: SmallStack, client: Client, tmp_path: Path
) -> None:
    bounds = LimitRangeSpec(limits=[LimitRangeItem(type="Container", max={"memory": "2Gi"})])
    client.create(LimitRange(metadata=ObjectMeta(name="bounds"), spec=bounds))
    name = submitted(training.target(), tmp_path, Demand(memory="3Gi"))
    target = training.target()
    until(lambda: "maximum memory usage" in target.job(name).detail, 60)
    assert target.job(name).condition == "queued"


def test_a_provision_leaves_what_queued_jobs_read(
    training: SmallStack, client: Client, tmp_path: Path
) -> None:
    name = submitted(training.target(), tmp_path)
    job = client.get(Job, name)
    assert job.spec and job.spec.template.spec
    maps = {v.configMap.name for v in job.spec.template.spec.volumes or () if v.configMap}
    training.services = training.services[:1]  # which prunes what is no part any more
    training.provision()
    assert maps <= {n.partition("/")[2] for n in there(training.kubeconfig, training.namespace)}


def test_of_a_stack_that_is_destroyed_meanwhile_nothing_is_left(
    training: SmallStack, api_server: Path, proxy: FaultyProxy, tmp_path: Path
) -> None:
    """The Job waits at the cluster's door until the stack is gone."""
    held = proxy.add(Fault("POST", f"/namespaces/{training.namespace}/jobs", hold=True))
    failed: list[BaseException] = []

    def submit() -> None:
        try:
            submitted(training.target(), tmp_path)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    assert held.came.wait(60)
    store = training.options["storage"].partition("endpoint=")[2]
    of(tmp_path / "hers", api_server, training.namespace, store).destroy()
    held.let_go.set()
    thread.join(60)
    assert isinstance(failed[0], NotProvisioned), failed
    until(lambda: not there(api_server, training.namespace), 60)


def test_ctrl_c_before_its_name_is_told_leaves_no_job(
    training: SmallStack, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        assert list(client.list(Job, labels=dict(queue.MARKS)))
        raise KeyboardInterrupt

    monkeypatch.setattr(queue.Queue, "_tidy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        submitted(training.target(), tmp_path)
    until(lambda: not list(client.list(Job, labels=dict(queue.MARKS))), 60)


NO_SUCH_IMAGE = 'failed to resolve reference "docker.io/team/torch:2": docker.io/team/torch:2: not found'


def test_what_no_node_can_start_is_ended_and_does_not_hold_its_machine(
    training: SmallStack, node: Kubelet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "REFUSED", 3.0)
    node.says["job"] = waiting("ErrImagePull", NO_SUCH_IMAGE)
    target = training.target()
    name = submitted(target, tmp_path)
    until(lambda: target.job(name).detail.startswith("its image cannot be had"), 30)

    def says_no_more_why() -> None:
        node.says["job"] = waiting("ImagePullBackOff", 'Back-off pulling image "team/torch:2"')

    later = threading.Timer(1.5, says_no_more_why)
    later.start()
    assert not list(target.follow(name, silent, lines=-1))
    later.join()
    found = target.job(name)
    assert (found.condition, found.exit_code) == ("failed", -1)
    assert found.detail == "its image cannot be had: not found (team/torch:2)"
    assert found.resolution == "matcha run --image IMAGE -- ..."


def test_an_image_that_comes_late_is_waited_for(
    training: SmallStack, node: Kubelet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "REFUSED", 1.0)
    node.says["job"] = waiting("ErrImagePull", "toomanyrequests: You have reached your pull rate limit.")
    target = training.target()
    name = submitted(target, tmp_path)
    following = threading.Thread(target=lambda: list(target.follow(name, silent, lines=-1)), daemon=True)
    following.start()
    time.sleep(4)
    assert target.job(name).condition == "queued"  # no scheduler gives it a node here
    node.says["job"] = well
    following.join(60)
    assert target.job(name).condition == "succeeded"


@pytest.mark.sweep(sample=("1",))
@pytest.mark.parametrize("point", range(POINTS))
def test_a_submission_that_is_killed_leaves_nothing_for_long(
    training: SmallStack,
    store: ObjectStore,
    client: Client,
    proxy: FaultyProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    point: int,
) -> None:
    """At any request: the next one runs, and every Secret has its Job."""
    chosen = random.Random()
    before = len(proxy.requests)
    submitted(training.target(), tmp_path)
    at = 1 + int((len(proxy.requests) - before) * (point + chosen.random()) / POINTS)
    print("killed at", at)
    command = [
        sys.executable,
        "-c",
        RUN,
        str(tmp_path),
        str(training.kubeconfig),
        training.namespace,
        store.url,
    ]
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.DEVNULL)
    strike = functools.partial(os.kill, process.pid, signal.SIGKILL)
    proxy.add(Fault("", skip=at - 1, strike=strike, after=chosen.random() < 0.5))
    try:
        assert process.wait(120) in (-signal.SIGKILL, 0)
    finally:
        process.kill()
        process.wait()
        proxy.heal()
    monkeypatch.setattr(queue, "UNUSED", 0.0)
    name = submitted(training.target(), tmp_path)
    jobs = {j.metadata.name for j in client.list(Job, labels=dict(queue.MARKS)) if j.metadata}
    kept = {s.metadata.name for s in client.list(Secret, labels=dict(queue.MARKS)) if s.metadata}
    assert name in jobs and kept <= jobs


def test_jobs_give_way_and_the_class_goes_with_the_stack(
    training: SmallStack, client: Client, tmp_path: Path
) -> None:
    submitted(training.target(), tmp_path)
    made = client.get(PriorityClass, priority.name(training.namespace))
    assert made.value < 0 and made.preemptionPolicy == "Never"
    assert f"PriorityClass {priority.name(training.namespace)}" in training.destroy().removed
    assert priority.name(training.namespace) not in {
        p.metadata.name for p in client.list(PriorityClass) if p.metadata
    }


# -- what a job asks for ------------------------------------------------------------------------------------


@pytest.fixture
def inside(training: SmallStack, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a job; this process has the variables that its own has."""
    name = submitted(training.target(), tmp_path)
    for variable, value in {
        "AWS_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "MATCHA_RELAY": relay.__name__,
        relay.ADDRESS: relay.address("s3://company/ml", name),
        "MATCHA_JOB": name,
    }.items():
        monkeypatch.setenv(variable, value)
    return name


def left(store: ObjectStore) -> list[Path]:
    return [p for p in (store.folder / "company" / "ml" / "jobs" / "relay").rglob("*") if p.is_file()]


def test_whoever_follows_a_job_does_what_it_asks_for(
    training: SmallStack, store: ObjectStore, inside: str
) -> None:
    wishes: list[_relayed.Wish] = []
    heard: list[Event] = []
    made = Deployment(name="films", asked="models:/movie/1", uri="models:/movie/1")

    def do(wish: _relayed.Wish) -> DeployResult:
        wishes.append(wish)
        if wish.name == "bad":
            raise BadInput("It does not fit.", details="By two columns.", resolution="matcha models")
        return DeployResult(deployment=made, url="http://here", python="", curl="")

    with _relayed.answering(training.target(), inside, do, heard.append):
        assert serving.deploy("models:/movie/1", name="films", sensitive=("age",)).url == "http://here"
        with pytest.raises(MatchaError, match="It does not fit") as told:
            serving.deploy("models:/movie/1", name="bad")
    assert (told.value.details, told.value.resolution) == ("By two columns.", "matcha models")
    assert wishes[0] == _relayed.Wish(model="models:/movie/1", name="films", sensitive=("age",))
    assert f"{inside} asks to deploy models:/movie/1 as films." in [e.message for e in heard]
    assert not left(store)


def test_a_job_that_nobody_follows_is_told_so(
    training: SmallStack, store: ObjectStore, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_relayed, "SECONDS", 2.0)
    with pytest.raises(MatchaError, match="Nobody who follows this job answered within 2 s") as told:
        serving.deploy("models:/movie/1")
    assert told.value.resolution == f"matcha jobs logs {inside} --follow"
    assert not left(store)


def test_a_request_that_is_none_is_refused_and_what_a_killed_job_asked_for_goes(
    training: SmallStack, store: ObjectStore, inside: str, client: Client, tmp_path: Path
) -> None:
    with _relayed.answering(training.target(), inside, lambda _: pytest.fail("nothing to do"), silent):
        said = relay.ask('{"model": 3}', 60)
    assert "was not understood" in said
    relay.answer(Store(os.environ, Deadline(30)), os.environ[relay.ADDRESS], "1", "for nobody")
    assert left(store)
    client.delete(Job, inside)
    until(lambda: inside not in {j.metadata.name for j in client.list(Job) if j.metadata}, 60)
    submitted(training.target(), tmp_path)
    assert not left(store)
