"""Jobs in a cluster: what is packed, what is made, what is refused, what is told. Against real files, a real
git, and the API's own types.
"""

from __future__ import annotations

import datetime
import http.server
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from lightkube.models.batch_v1 import JobCondition as Condition
from lightkube.models.batch_v1 import JobSpec, JobStatus
from lightkube.models.core_v1 import (
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStatus,
    NodeSpec,
    NodeStatus,
    ObjectReference,
    PodCondition,
    PodSpec,
    PodStatus,
    PodTemplateSpec,
    Taint,
)
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Event as ClusterEvent
from lightkube.resources.core_v1 import Node, Pod

from matcha.access import Output
from matcha.errors import BadInput
from matcha.events import Event
from matcha.job import Demand, RemoteJob
from matcha.service import Environment
from matcha.targets.kubernetes import KubernetesOptions, rotation
from matcha.targets.kubernetes.cluster import ClusterError
from matcha.targets.kubernetes.inside.matcha_pod import ending
from matcha.targets.kubernetes.jobs import capacity, packing, queue, render, telling
from matcha.targets.kubernetes.options import Pool
from matcha.targets.kubernetes.secrets import Secrets
from matcha.targets.kubernetes.setting import Setting, setting
from matcha.views.jobs import jobs_lines
from matcha.views.text import Paper
from matcha.views.text import render as shown
from support.matcha import until
from support.stores import close_all, cluster

GIB = 2**30


# -- what is packed -----------------------------------------------------------------------------------------


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def packed(root: Path, to: Path, **changes: Any) -> set[str]:
    made = packing.pack(root, {}, to / "code.tar.gz", **changes)
    with tarfile.open(made.file) as tar:
        return set(tar.getnames())


IGNORED = {
    ".gitignore": "*.csv\n!keep.csv\n/out/\nlogs\ndata/**\n!data/schema.json\ndeep/*.bin\n"
    "\\#odd\n*.tmp # no\n",
    "train.py": "",
    "a.csv": "",
    "keep.csv": "",
    "sub/b.csv": "",
    "sub/keep.csv": "",
    "out/x": "",
    "sub/out/x": "",
    "logs/x": "",
    "sub/logs/x": "",
    "data/raw.bin": "",
    "data/schema.json": "",
    "deep/a.bin": "",
    "deep/down/a.bin": "",
    "#odd": "",
    "x.tmp": "",
    "sub/.gitignore": "!b.csv\nown.txt\n",
    "sub/own.txt": "",
    "own.txt": "",
    "with space/file name.py": "",
    "ünï.py": "",
}


def test_gitignore_is_honoured_as_git_does(tmp_path: Path) -> None:
    """git itself says what it would add."""
    root = tmp_path / "project"
    write(root, IGNORED)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    asked = ["git", "-c", "core.quotePath=false", "ls-files", "-z", "--others", "--exclude-standard"]
    said = subprocess.run(asked, cwd=root, check=True, capture_output=True, text=True).stdout
    expected = set(said.strip("\0").split("\0"))
    assert {"train.py", "sub/b.csv", "data/schema.json"} <= expected
    assert packed(root, tmp_path) == expected


def test_a_project_inside_a_repository_has_its_rules_too(tmp_path: Path) -> None:
    write(tmp_path / "repo", {".gitignore": "*.csv\n/project/big\n", "project/a.csv": "", "project/a.py": ""})
    write(tmp_path / "repo", {"project/big/x": "", ".git/info/exclude": "*.secret\n", "project/k.secret": ""})
    assert packed(tmp_path / "repo" / "project", tmp_path) == {"a.py"}


def test_what_is_never_code_stays_here(tmp_path: Path) -> None:
    root = tmp_path / "project"
    write(root, {"a.py": "", ".git/config": "", ".matcha/x": "", "venv/pyvenv.cfg": "", "venv/lib/x.py": ""})
    write(root, {"sub/__pycache__/a.pyc": "", "node_modules/x.js": ""})
    assert packed(root, tmp_path) == {"a.py"}


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for root in (first, second):
        write(root, {"b.py": "2", "a/x.py": "1"})
    os.utime(second / "b.py", (1, 1))
    made = [packing.pack(root, {}, tmp_path / f"{root.name}.gz") for root in (first, second)]
    assert made[0].digest == made[1].digest
    (second / "b.py").chmod(0o755)  # which runs there
    assert packing.pack(second, {}, tmp_path / "third.gz").digest != made[0].digest


def test_more_than_code_is_refused_with_the_largest_named(tmp_path: Path) -> None:
    root = tmp_path / "project"
    write(root, {f"{n}.bin": "x" * n * 1000 for n in range(1, 9)})
    with pytest.raises(BadInput) as told:
        packed(root, tmp_path, limit=30_000)
    assert "35.2 KiB" in told.value.message
    named = [line.split()[-1] for line in told.value.details.splitlines()[1:]]
    assert named == ["8.bin", "7.bin", "6.bin", "5.bin", "4.bin"]


def test_the_size_is_told(tmp_path: Path) -> None:
    root = tmp_path / "project"
    write(root, {"a.py": "x" * 3 * 2**20, "b.py": ""})
    (root / "gone").symlink_to("nowhere")
    told = queue._told(packing.pack(root, {}, tmp_path / "code.tar.gz"))
    assert told.startswith("Your code: 2 files, 3.0 MiB, ")
    assert "Links left out, since what they stand for is not there or left out: gone." in told


@pytest.mark.parametrize("there", ["../outside.txt", "../elsewhere", "/etc/hostname", ".."])
def test_a_link_that_leads_out_is_refused(tmp_path: Path, there: str) -> None:
    root = tmp_path / "project"
    write(tmp_path, {"project/a.py": "", "outside.txt": "secret", "elsewhere/x": "secret"})
    (root / "link").symlink_to(there)
    with pytest.raises(BadInput, match="link that leads out of the project"):
        packed(root, tmp_path)
    (root / ".gitignore").write_text("link\n")
    assert packed(root, tmp_path) == {"a.py", ".gitignore"}


def test_a_link_inside_is_what_it_stands_for(tmp_path: Path) -> None:
    root = tmp_path / "project"
    write(root, {"runs/7/model.txt": "m", "a.py": "print()"})
    (root / "latest").symlink_to("runs/7")
    (root / "b.py").symlink_to("a.py")
    (root / "gone").symlink_to("nowhere")
    made = packing.pack(root, {}, tmp_path / "code.tar.gz")
    assert made.left == ("gone",)
    with tarfile.open(made.file) as tar:
        assert {m.name for m in tar} == {"runs/7/model.txt", "a.py", "latest/model.txt", "b.py"}
        assert all(m.isreg() for m in tar)


@pytest.mark.parametrize(
    "links", [{"a": "."}, {"a": "../project"}, {"a": "a"}, {"x/up": ".."}, {"x/y": "../z", "z/x": "../x"}]
)
def test_a_link_without_an_end_is_refused(tmp_path: Path, links: dict[str, str]) -> None:
    root = tmp_path / "project"
    write(root, {"a.py": "", "x/b.py": "", "z/c.py": ""})
    for name, there in links.items():
        (root / name).symlink_to(there)
    with pytest.raises(BadInput, match="is a link to something that it is a part of itself"):
        packed(root, tmp_path)


def test_links_behind_links_go_along_and_what_is_left_out_stays_so(tmp_path: Path) -> None:
    root = tmp_path / "project"
    write(
        root,
        {"shared/v3.csv": "", "shared/more/x": "", ".env": "KEY=1", "private/key": "", ".git/config": ""},
    )
    write(root, {".venv/pyvenv.cfg": "", ".venv/lib/x": "", ".gitignore": "\ufeff.env\nprivate/\n"})
    (root / "shared" / "train.csv").symlink_to("v3.csv")
    (root / "shared" / "all").symlink_to("more")
    for name, there in {
        "data": "shared",
        "conf": ".env",
        "cfg": "private",
        "g": ".git",
        "env": ".venv",
    }.items():
        (root / name).symlink_to(there)
    made = packing.pack(root, {}, tmp_path / "code.tar.gz")
    with tarfile.open(made.file) as tar:
        names = {m.name for m in tar}
    inside = {"v3.csv", "train.csv", "more/x", "all/x"}
    assert names == {".gitignore"} | {f"{top}/{name}" for top in ("shared", "data") for name in inside}
    assert made.left == ("cfg", "conf", "env", "g")


@pytest.mark.parametrize("line", ["data\\", "! ", "!", "\\/a", "a\\"])
def test_a_line_that_is_no_pattern_to_git_leaves_nothing_out(tmp_path: Path, line: str) -> None:
    root = tmp_path / "project"
    write(root, {"a": "", "data": "", "left": "", ".gitignore": f"{line}\nleft\n"})
    assert packed(root, tmp_path) == {"a", "data", ".gitignore"}


def test_what_goes_along_is_source_alone(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"project/a.py": "", "own/x.py": "", "own/requirements.lock": "", "own/__pycache__/x.pyc": ""},
    )
    made = packing.pack(tmp_path / "project", {".matcha/python/own": tmp_path / "own"}, tmp_path / "c.gz")
    with tarfile.open(made.file) as tar:
        assert tar.getnames() == ["a.py", ".matcha/python/own/x.py"]
    assert made.files == 1


# -- what is made -------------------------------------------------------------------------------------------


@pytest.fixture
def stack(tmp_path: Path) -> Setting:
    return setting(KubernetesOptions(namespace="ml"), [], [])


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    (tmp_path / "requirements.lock").write_text("six==1.17.0\n")
    return Environment(name="workspace", lock=tmp_path / "requirements.lock")


def made(environment: Environment | None, **changes: Any) -> render.Made:
    job = RemoteJob(
        command=("python", "-m", "matcha.worker", "--", "echo", "$$", "$(HOME)"),
        shown=("echo", "$(HOME)"),
        project=Path("/nowhere"),
        env={"PLAIN": Output("$(X)"), "KEY": Output("s3cr3t", sensitive=True)},
        environment=environment,
        code="s3://matcha/jobs/code-1.tar.gz",
        **changes,
    )
    return render.Made(name="echo-x1", job=job, owner="me@here")


@pytest.mark.parametrize("own", [True, False])
def test_a_job_is_valid_and_holds_no_secret(stack: Setting, environment: Environment, own: bool) -> None:
    one = made(environment if own else None, **({} if own else {"image": "team/torch:2"}))
    job = render.job(stack, one)
    document = {"apiVersion": "batch/v1", "kind": "Job", **job.to_dict()}
    for version in ("1.30", "1.35"):
        kubernetes_validate.validate(document, version, strict=True)
    assert "s3cr3t" not in str(document)
    secret = render.secret(one)
    assert secret and secret.stringData == {"KEY": "s3cr3t"}
    assert job.spec and job.spec.template.spec
    pod = job.spec.template.spec
    assert pod.automountServiceAccountToken is False
    [container] = pod.containers
    variables = {v.name: v for v in container.env or ()}
    assert variables["KEY"].valueFrom.secretKeyRef.name == "echo-x1"  # type: ignore[union-attr]
    assert variables["PLAIN"].value == "$$(X)"
    assert container.command is not None and container.command[-2:] == ["$$$$", "$$(HOME)"]
    before = ["environment", "code"] if own else ["code"]
    assert [c.name for c in pod.initContainers or ()] == [*before, "witness"]
    assert ("PATH" in variables) is own
    assert container.image == ("python:3.12.13-slim-bookworm" if own else "team/torch:2")


def test_the_pod_of_a_job_has_the_keys_of_jobs_alone(stack: Setting, environment: Environment) -> None:
    own = reads(render.job(stack, made(environment)))
    assert own == {
        ("matcha-secrets", "object-store-jobs-access-key"),
        ("matcha-secrets", "object-store-jobs-secret-key"),
        ("echo-x1", "KEY"),
    }
    there = KubernetesOptions(namespace="ml", storage="s3://company/ml", storage_secret="keys")
    theirs = reads(render.job(setting(there, [], []), made(environment)))
    assert theirs == {("keys", "access-key"), ("keys", "secret-key"), ("echo-x1", "KEY")}


def reads(job: Job) -> set[tuple[str, str]]:
    """Secrets that the pod of a job names, each with the key."""
    assert job.spec
    return set(rotation.reads(job.spec.template))


def test_a_job_needs_what_was_asked_for(stack: Setting, environment: Environment) -> None:
    job = render.job(stack, made(environment, demand=Demand(gpu=2, cpu=3, memory="8Gi")))
    assert job.spec and job.spec.template.spec
    pod = job.spec.template.spec
    needs = pod.containers[0].resources
    assert needs and needs.requests and needs.limits
    assert (needs.requests["cpu"], needs.requests["memory"], needs.limits["memory"]) == ("3", "8Gi", "8Gi")
    assert needs.limits["nvidia.com/gpu"] == "2"
    assert {t.key for t in pod.tolerations or ()} == {"sku", "nvidia.com/gpu"}
    plain = render.job(stack, made(environment))
    assert plain.spec and plain.spec.template.spec and plain.spec.template.spec.tolerations is None


def test_the_command_has_one_try_and_a_lost_node_is_none(stack: Setting, environment: Environment) -> None:
    job = render.job(stack, made(environment))
    assert job.spec and job.spec.podFailurePolicy
    lost, ended, *before = job.spec.podFailurePolicy.rules
    assert (lost.action, lost.onPodConditions[0].type) == ("Ignore", "DisruptionTarget")  # type: ignore[index]
    assert ended.onExitCodes and (ended.action, ended.onExitCodes.containerName) == ("FailJob", "witness")
    assert (ended.onExitCodes.operator, ended.onExitCodes.values) == ("In", [86])
    assert [r.onExitCodes.containerName for r in before if r.onExitCodes] == ["environment", "code"]
    assert job.spec.ttlSecondsAfterFinished == 24 * 3600  # then it goes, and its Secret with it


@pytest.mark.parametrize(
    ("shown", "stem"),
    [
        (("python", "train.py", "--x"), "train"),
        (("python", "src/My_Script.py"), "my-script"),
        (("dvc", "repro"), "dvc"),
        (("./run-" + "x" * 80,), ("run-" + "x" * 80)[:30]),
        (("---",), "job"),
    ],
)
def test_a_name_says_what_runs(shown: tuple[str, ...], stem: str) -> None:
    first, second = render.new_name(shown), render.new_name(shown)
    assert first.rpartition("-")[0] == stem
    assert first != second
    assert len(first) <= 63 - len("-abcde")  # of its pods


# -- what is refused ----------------------------------------------------------------------------------------


def node(
    name: str, *, gpu: int = 0, cpu: str = "4", taints: Any = (), labels: Any = None, off: bool = False
) -> Node:
    offered = {"cpu": cpu, "memory": "16Gi", **({"nvidia.com/gpu": str(gpu)} if gpu else {})}
    return Node(
        metadata=ObjectMeta(name=name, labels={"kubernetes.io/arch": "amd64", **(labels or {})}),
        spec=NodeSpec(
            taints=[Taint(key=k, value=v, effect=e) for k, v, e in taints], unschedulable=off or None
        ),
        status=NodeStatus(allocatable=offered),
    )


GPU_TAINT = [("sku", "gpu", "NoSchedule")]
GONE = ("node.kubernetes.io/unreachable", None, "NoExecute")
GPU_POOL = {"gpu": Pool(gpu=1, cpu=6, memory="50Gi")}


@pytest.mark.parametrize(
    ("demand", "nodes", "pools", "said"),
    [
        (Demand(), [node("a")], {}, ""),
        (Demand(gpu=1), [node("a", gpu=1, taints=GPU_TAINT)], {}, ""),
        (Demand(gpu=1), [node("a", gpu=1, taints=[("nvidia.com/gpu", "present", "NoSchedule")])], {}, ""),
        (Demand(), [node("a", gpu=1, taints=GPU_TAINT)], {}, "a: sku=gpu:NoSchedule"),
        (Demand(gpu=1), [node("a", gpu=1, taints=[("team", "x", "NoSchedule")])], {}, "a: team=x:NoSchedule"),
        (Demand(gpu=2), [node("a", gpu=1)], {}, "none has more than 1"),
        (Demand(gpu=1), [node("a")], {}, "1 GPU asked for, and none has any"),
        (Demand(gpu=1), [node("a")], GPU_POOL, ""),
        (Demand(gpu=2), [node("a")], GPU_POOL, "none has more than 1"),
        (Demand(cpu=5), [node("a"), node("b", cpu="4500m")], {}, "none has more than 4.5"),
        (Demand(memory="17Gi"), [node("a")], {}, "none has more than 16.0Gi"),
        (Demand(gpu=1, cpu=8), [node("a", gpu=1), node("b", cpu="16")], {}, "all of it at once"),
        (Demand(), [node("a", off=True)], {}, ""),
        (Demand(gpu=1), [node("a", gpu=1, taints=[*GPU_TAINT, GONE])], {}, ""),
        (Demand(gpu=2), [node("a", gpu=1, taints=[GONE])], {}, "4 CPUs, 16.0 GiB, 1 GPU (takes nothing now)"),
        (Demand(gpu=1), [node("a", gpu=1, taints=[("sku", "gpu", "NoExecute")])], {}, "each keeps jobs off"),
        (Demand(), [node("a", labels={"kubernetes.io/os": "windows"})], {}, "a: it does not run Linux"),
        (Demand(cpu=9), [node("a"), node("b", taints=GPU_TAINT)], {}, "b keeps jobs off: sku=gpu:NoSchedule"),
        (Demand(), [], {}, "there is no node"),
    ],
)
def test_only_what_can_never_run_is_refused(demand: Demand, nodes: Any, pools: Any, said: str) -> None:
    if not said:
        capacity.place(demand, nodes, pools)
        return
    with pytest.raises(BadInput) as told:
        capacity.place(demand, nodes, pools)
    assert said in f"{told.value.message}\n{told.value.details}"
    assert "targets.kubernetes.pools" in told.value.resolution


def test_a_pool_is_told_as_what_has_to_come() -> None:
    assert "pool gpu has to be added" in capacity.place(Demand(gpu=1), [node("a")], GPU_POOL).notes[0]
    assert not capacity.place(Demand(gpu=1), [node("a", gpu=1)], GPU_POOL).notes


@pytest.mark.parametrize(
    ("taking", "there", "runs_on", "built_for"),
    [
        ({"amd64"}, {"amd64"}, "", ["amd64"]),
        ({"arm64"}, {"arm64"}, "", ["arm64"]),
        ({"amd64", "arm64"}, {"amd64", "arm64"}, "amd64", ["amd64"]),
        # The other kind's nodes keep jobs off, so nothing can be built on them either.
        ({"arm64"}, {"amd64", "arm64"}, "arm64", ["arm64"]),
        (set(), {"amd64", "arm64"}, "", ["amd64", "arm64"]),
        (set(), set(), "", ["amd64"]),
    ],
)
def test_an_environment_is_built_for_the_machines_that_take_the_job(
    taking: set[str], there: set[str], runs_on: str, built_for: list[str]
) -> None:
    assert queue._kinds(frozenset(taking), frozenset(there)) == (runs_on, built_for)


def test_a_node_that_is_away_for_now_is_waited_for() -> None:
    """Cordoned for an upgrade, or not ready: it may be back in a minute."""
    [note] = capacity.place(Demand(), [node("a", off=True)], {}).notes
    assert "a is cordoned, or not well" in note
    found = capacity.place(Demand(), [node("a", taints=[GONE]), node("b")], {})
    assert found == capacity.Place(frozenset({"amd64"}))


def test_gpus_that_a_node_does_not_offer_are_told() -> None:
    there = node("gpu-1", labels={"kubernetes.azure.com/accelerator": "nvidia"}, taints=GPU_TAINT)
    with pytest.raises(BadInput) as told:
        capacity.place(Demand(gpu=1), [there], {})
    assert (
        "gpu-1 has GPUs and does not offer them: NVIDIA's device plugin does not run there"
        in told.value.details
    )


# -- what is told -------------------------------------------------------------------------------------------

WHEN = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.timezone.utc)


def job(*conditions: Condition, limit: str = "1Gi", **notes: str) -> Job:
    spec = render.demanded(Demand(memory=limit))
    container: Any = {"name": "job", "resources": spec.to_dict()}
    template = PodTemplateSpec(spec=PodSpec.from_dict({"containers": [container]}))
    annotations = {render.COMMAND: '["python","t.py"]', render.OWNER: "me@here", **notes}
    return Job(
        metadata=ObjectMeta(name="t-1", annotations=annotations, creationTimestamp=WHEN),
        spec=JobSpec(template=template),
        status=JobStatus(conditions=list(conditions)),
    )


def pod(
    state: ContainerState | None, node: str = "n1", *, leaving: bool = False, phase: str = "", **status: Any
) -> Pod:
    statuses = [ContainerStatus(image="", imageID="", name="job", ready=False, restartCount=0, state=state)]
    return Pod(
        metadata=ObjectMeta(
            name="t-1-a", creationTimestamp=WHEN, deletionTimestamp=WHEN if leaving else None
        ),
        spec=PodSpec(containers=[], nodeName=node),
        status=PodStatus(containerStatuses=statuses if state else None, phase=phase or None, **status),
    )


def ended(code: int, reason: str = "Error", message: str = "") -> ContainerState:
    return ContainerState(
        terminated=ContainerStateTerminated(
            exitCode=code, reason=reason, message=message, startedAt=WHEN, finishedAt=WHEN
        )
    )


FAILED = Condition(type="Failed", status="True", reason="PodFailurePolicy", lastTransitionTime=WHEN)
COMPLETE = Condition(type="Complete", status="True", lastTransitionTime=WHEN)
RUNNING = ContainerState(running=ContainerStateRunning(startedAt=WHEN))
NO_ROOM = (
    "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
)
UNFIT = PodCondition(type="PodScheduled", status="False", message=NO_ROOM)
NO_FILE = 'exec: "nosuch": executable file not found in $PATH: unknown'


@pytest.mark.parametrize(
    ("one", "pods", "condition", "code", "detail"),
    [
        (job(), [], "queued", -1, "waiting for its pod"),
        (job(), [pod(None, node="", conditions=[UNFIT])], "queued", -1, "1 Insufficient cpu"),
        (job(), [pod(None)], "starting", -1, "its node prepares it"),
        (job(), [pod(RUNNING)], "running", -1, ""),
        (job(COMPLETE), [pod(ended(0))], "succeeded", 0, ""),
        (job(FAILED), [pod(ended(3))], "failed", 3, "exit code 3"),
        (job(FAILED), [pod(ended(137, "OOMKilled"))], "failed", 137, "needed more memory than 1Gi"),
        (job(FAILED), [pod(ended(128, "StartError", NO_FILE))], "failed", 127, "executable file not found"),
        (job(), [pod(ended(255, "Unknown"))], "running", -1, "its node was lost; it starts again"),
        (
            job(FAILED),
            [pod(ended(255, "Unknown"))],
            "failed",
            -1,
            "its node was lost in the middle",
        ),
        (job(FAILED), [pod(ended(137, "ContainerStatusUnknown"))], "failed", -1, "its node was lost"),
        (
            job(FAILED, **{render.GIVEN_UP: "its image cannot be had"}),
            [],
            "failed",
            -1,
            "its image cannot be had",
        ),
        (job(FAILED, **{render.CANCELLED: "you@there"}), [], "cancelled", -1, "cancelled by you@there"),
        (job(COMPLETE, **{render.CANCELLED: "you@there"}), [pod(ended(0))], "succeeded", 0, ""),
        (job(), [pod(RUNNING, leaving=True)], "running", -1, "kubectl delete node n1"),
    ],
)
def test_a_job_is_told_as_it_is(one: Job, pods: Any, condition: str, code: int, detail: str) -> None:
    found = telling.status(one, pods)
    assert (found.condition, found.exit_code) == (condition, code)
    assert detail in found.detail
    assert found.command == ("python", "t.py")
    assert found.owner == "me@here"


def test_what_no_job_may_do_is_left_out() -> None:
    found = telling.status(job(), [pod(None, node="", conditions=[UNFIT])])
    assert found.detail == "no node takes it: 0/1 nodes are available: 1 Insufficient cpu"


def test_a_node_that_is_added_for_a_job_is_told() -> None:
    waiting = pod(None, node="", conditions=[UNFIT])
    about = ObjectReference(kind="Pod", name="t-1-a")
    grows = ClusterEvent(
        metadata=ObjectMeta(name="e"), involvedObject=about, reason="TriggeredScaleUp", lastTimestamp=WHEN
    )
    found = telling.status(job(), [waiting], [grows])
    assert (found.condition, found.detail.partition(":")[0]) == ("queued", "waiting for a new node")


def test_who_needs_more_memory_is_told_how_to_ask() -> None:
    found = telling.status(job(FAILED), [pod(ended(137, "OOMKilled"))])
    assert found.resolution == "matcha run --memory 2Gi -- ..."
    found = telling.status(job(FAILED, limit="200Mi"), [pod(ended(137, "OOMKilled"))])
    assert found.resolution == "matcha run --memory 400Mi -- ..."


def test_a_step_is_told_as_one() -> None:
    notes = {render.PIPELINE: "movies", render.STEP: "train"}
    found = telling.status(job(FAILED, **notes), [pod(ended(137, "OOMKilled"))])
    assert (found.pipeline, found.step) == ("movies", "train")
    assert found.resolution == 'ResourceSettings(memory="2048MiB")'
    assert "step train of movies" in shown(jobs_lines([found], Paper(), now=0.0), Paper())
    assert "python t.py" in shown(jobs_lines([telling.status(job(), [])], Paper(), now=0.0), Paper())


# -- how it is followed -------------------------------------------------------------------------------------


class Answers:
    """An API server of one job, whose node hands out no log. `statuses` are those of its next answers."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.is_over = True
        self.pods: list[Pod] = []
        self.asked_for_log = 0
        answers = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status = answers.statuses.pop(0) if answers.statuses else 200
                said = answers.said(self.path)
                if self.path.split("?")[0].endswith("/log"):
                    answers.asked_for_log += 1
                    status = 500
                if status != 200:
                    said = {"kind": "Status", "status": "Failure", "message": "no", "code": status}
                raw = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def said(self, path: str) -> Any:
        if "/jobs/" not in path:
            return {"kind": "PodList", "metadata": {}, "items": [pod.to_dict() for pod in self.pods]}
        found = {
            **job(*([COMPLETE] if self.is_over else [])).to_dict(),
            "apiVersion": "batch/v1",
            "kind": "Job",
        }
        found["metadata"] |= {
            "labels": {"app.kubernetes.io/managed-by": "matcha", "app.kubernetes.io/name": "job"}
        }
        return found


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    monkeypatch.setattr(queue, "POLL", 0.01)
    made = Answers()
    threading.Thread(target=made.server.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    close_all()
    made.server.shutdown()
    made.server.server_close()


def followed(answers: Answers, tmp_path: Path, then: Callable[[str], object] = bool) -> list[str]:
    """What is said besides the job's log, which is empty; `then` gets each as it is said."""
    kubeconfig = tmp_path / "kubeconfig"
    known_here: Any = {"cluster": {"server": answers.url}, "name": "c"}
    context: Any = {"context": {"cluster": "c", "user": "u"}, "name": "here"}
    user: Any = {"name": "u", "user": {"token": "t"}}
    kubeconfig.write_text(
        json.dumps(
            {"current-context": "here", "clusters": [known_here], "contexts": [context], "users": [user]}
        )
    )
    reached = cluster(kubeconfig, "ml", sleep=lambda _: None)
    told: list[str] = []

    def heard(event: Event) -> None:
        told.append(event.message)
        then(event.message)

    unused: Any = None
    assert list(queue.Queue(reached, unused, Secrets(reached)).follow("t-1", heard, lines=-1)) == []
    return told


def test_a_cluster_that_is_busy_for_long_is_asked_again(answers: Answers, tmp_path: Path) -> None:
    answers.statuses += [503] * 12 + [429] * 6
    assert "the cluster does not answer; the job goes on" in followed(answers, tmp_path)
    assert not answers.statuses


def test_a_cluster_that_refuses_is_not(answers: Answers, tmp_path: Path) -> None:
    answers.statuses += [403]
    with pytest.raises(ClusterError, match="not"):
        followed(answers, tmp_path)


def test_a_job_whose_machine_is_lost_is_followed_further(answers: Answers, tmp_path: Path) -> None:
    """Its log cannot be had meanwhile: the API server says so with the status of a mistake of its own."""
    answers.is_over, answers.pods = False, [pod(RUNNING)]

    def go_on(said: str) -> None:
        if said == "n1 does not hand out its log":  # it is missed now, and its pod is to go
            answers.pods = [pod(RUNNING, leaving=True)]
        elif "kubectl delete node n1" in said:  # which somebody did; it ran elsewhere since
            answers.is_over, answers.pods = True, []

    told = followed(answers, tmp_path, go_on)
    assert told[0] == "runs on n1"
    assert [said for said in told if "does not answer" in said] == []
    assert "kubectl delete node n1" in told[-1]


def test_of_a_job_that_is_over_a_log_that_is_gone_is_not_waited_for_long(
    answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "UNHEARD", 0.1)
    answers.pods = [pod(ended(0))]
    followed(answers, tmp_path)
    assert answers.asked_for_log > 1


# -- the first process of a job -----------------------------------------------------------------------------


def test_a_job_may_go_on_with_what_others_began(tmp_path: Path) -> None:
    (tmp_path / "after.py").write_text("import sys; open('since', 'w').write(sys.argv[2])")
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "MATCHA_JOB_BEGAN": "17"}
    work("--after", "after", "--", sys.executable, "-c", "", env=env, cwd=tmp_path)
    assert (tmp_path / "since").read_text() == "17"


def work(*arguments: str, **changes: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "matcha.worker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **changes)


def test_the_exit_code_is_the_commands() -> None:
    assert work("--", sys.executable, "-c", "raise SystemExit(7)").returncode == 7
    assert work("--", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)").returncode == 137
    missing = work("--", "no-such-command")
    assert (missing.returncode, "no-such-command" in missing.stderr) == (127, True)


def test_signals_reach_the_command(tmp_path: Path) -> None:
    code = "import signal, sys, time; signal.signal(15, lambda *_: exit(9)); "
    code += "open(sys.argv[1], 'w'); time.sleep(60)"
    up = tmp_path / "up"
    child = subprocess.Popen(
        [sys.executable, "-m", "matcha.worker", "--", sys.executable, "-c", code, str(up)]
    )
    try:
        until(up.exists, 20)
        child.terminate()
        assert child.wait(20) == 9
    finally:
        child.kill()
        child.wait()


def test_what_comes_after_gets_the_start_and_changes_no_exit_code(tmp_path: Path) -> None:
    told = '{"status": "done", "runs": [{"status": "changed", "message": "the data changed"}]}'
    (tmp_path / "later.py").write_text(
        f"import sys; open('asked','w').write(' '.join(sys.argv[1:])); print('{told}')"
    )
    done = work("--after", "later", "--", sys.executable, "-c", "raise SystemExit(5)", cwd=tmp_path)
    assert done.returncode == 5
    option, moment = (tmp_path / "asked").read_text().split()
    assert option == "--experiment-since" and int(moment) > 1.7e12
    assert "the data changed" in done.stderr
    (tmp_path / "later.py").write_text("raise SystemExit('broken')")
    assert work("--after", "later", "--", "true", cwd=tmp_path).returncode == 0


def test_a_command_that_is_over_stays_so_when_its_node_is_drained(tmp_path: Path) -> None:
    """While its training data is sampled: it would begin anew otherwise."""
    (tmp_path / "later.py").write_text("import time; open('asked', 'w'); time.sleep(60)")
    command = [sys.executable, "-m", "matcha.worker", "--after", "later", "--", "true"]
    child = subprocess.Popen(command, cwd=tmp_path)
    try:
        until((tmp_path / "asked").exists, 20)
        child.terminate()
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()


def test_who_is_hushed_says_nothing_and_others_do(capsys: pytest.CaptureFixture[str]) -> None:
    """A thread that looks for requests must not swallow the log that another one prints."""
    inside, done = threading.Event(), threading.Event()

    def quiet() -> None:
        with ending.hushed():
            ending.say("of the client")
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=quiet)
    thread.start()
    assert inside.wait(10)
    print("of the job")
    ending.say("of another")
    done.set()
    thread.join()
    assert capsys.readouterr().out == "of the job\nof another\n"
