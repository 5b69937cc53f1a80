"""Whether a job can ever run in a cluster, by its nodes and the pools that may add some. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from lightkube.models.core_v1 import Taint
from lightkube.resources.core_v1 import Node

from matcha.errors import BadInput
from matcha.job import Demand
from matcha.targets.kubernetes.archives import MACHINE
from matcha.targets.kubernetes.compare import amount
from matcha.targets.kubernetes.jobs.render import CPU, GPU, MEMORY, TOLERATED
from matcha.targets.kubernetes.options import Pool
from matcha.targets.kubernetes.pod import OS

Label = tuple[str, str]
# Labels of nodes with NVIDIA's GPUs: of its own discovery, Azure, Google and Amazon.
HAVE_GPUS: tuple[Label, ...] = (
    ("nvidia.com/gpu.present", "true"),
    ("kubernetes.azure.com/accelerator", "nvidia"),
    ("cloud.google.com/gke-accelerator", ""),
    ("k8s.amazonaws.com/accelerator", ""),
)
_KEEPING_OFF = ("NoSchedule", "NoExecute")
# Taints that a cluster puts on nodes by itself, and takes away: not ready, short of memory, cordoned.
_PASSING = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")


class Room(msgspec.Struct, frozen=True):
    """What one node, or each node of a pool, gives to pods. Memory in bytes."""

    name: str
    gpu: int
    cpu: float
    memory: float
    machine: str = ""
    idle_gpus: bool = False  # it says that it has some, and offers none
    away: bool = False  # it takes no pods now, and may again

    def told(self) -> str:
        gpus = f", {self.gpu} GPU{'s' if self.gpu != 1 else ''}" if self.gpu else ""
        away = " (takes nothing now)" if self.away else ""
        return f"{self.name}: {self.cpu:g} CPUs, {self.memory / 2**30:.1f} GiB{gpus}{away}"


class Place(msgspec.Struct, frozen=True):
    """Kinds of machine (`amd64`) that take the job, and what its user has to know of the way there."""

    machines: frozenset[str]
    notes: tuple[str, ...] = ()


def place(demand: Demand, nodes: Iterable[Node], pools: Mapping[str, Pool]) -> Place:
    """Raises BadInput where no node and no pool could ever take the job alone."""
    rooms = [(node, _room(node, demand)) for node in nodes]
    there = [room for _, room in rooms if room is not None]
    fitting = [room for room in there if fits(demand, room)]
    if now := [room for room in fitting if not room.away]:
        return Place(_kinds(now))
    if fitting:
        waits = f"No node takes it now: {fitting[0].name} is cordoned, or not well, and has to be back first."
        return Place(_kinds(fitting), (waits,))
    adding = [room for room in _of_pools(pools) if fits(demand, room)]
    if adding:
        return Place(
            frozenset(), (f"No node takes it yet: one of the pool {adding[0].name} has to be added.",)
        )
    off = {_name(node): _told(node, demand) for node, room in rooms if room is None}
    raise _refusal(demand, there, [*_of_pools(pools)], off)


def _kinds(rooms: Iterable[Room]) -> frozenset[str]:
    return frozenset(room.machine for room in rooms if room.machine)


def fits(demand: Demand, room: Room) -> bool:
    return (
        demand.gpu <= room.gpu
        and (CPU if demand.cpu is None else demand.cpu) <= room.cpu
        and (amount(demand.memory or MEMORY) or 0) <= room.memory
    )


def _room(node: Node, demand: Demand) -> Room | None:
    """None for a node that keeps the job off."""
    spec, labels = node.spec, (node.metadata.labels if node.metadata else None) or {}
    keeping = _keeping(node, demand)
    if not all(taint.key.startswith(_PASSING) for taint in keeping):
        return None
    if labels.get(OS, "linux") != "linux":
        return None
    found = _allocatable(node)
    gpus = _gpus(found)
    return Room(
        name=_name(node),
        gpu=gpus,
        cpu=amount(found.get("cpu", 0)) or 0.0,
        memory=amount(found.get("memory", 0)) or 0.0,
        machine=labels.get(MACHINE, ""),
        idle_gpus=not gpus and bool(says(node)),
        away=bool(keeping or (spec and spec.unschedulable)),
    )


def _keeping(node: Node, demand: Demand) -> list[Taint]:
    taints = (node.spec.taints if node.spec else None) or ()
    return [taint for taint in taints if _keeps_off(taint, demand)]


def _name(node: Node) -> str:
    return (node.metadata.name if node.metadata else None) or ""


def _told(node: Node, demand: Demand) -> str:
    """What keeps the job off a node that is none for it."""
    taints = [t for t in _keeping(node, demand) if not t.key.startswith(_PASSING)]
    if not taints:
        return "it does not run Linux"
    return ", ".join(f"{t.key}{'=' + t.value if t.value else ''}:{t.effect}" for t in taints)


def _allocatable(node: Node) -> dict[str, str]:
    return dict((node.status.allocatable if node.status else None) or {})


def offered(node: Node) -> int:
    """GPUs that pods get there."""
    return _gpus(_allocatable(node))


def _gpus(allocatable: Mapping[str, str]) -> int:
    return int(amount(allocatable.get(GPU, 0)) or 0)


def says(node: Node) -> list[Label]:
    """Labels by which a node has GPUs; the value is empty where any will do."""
    labels = (node.metadata.labels if node.metadata else None) or {}
    return [(k, v) for k, v in HAVE_GPUS if (labels.get(k) == v if v else k in labels)]


def _keeps_off(taint: Taint, demand: Demand) -> bool:
    tolerated = (
        demand.gpu
        and taint.effect == "NoSchedule"
        and any(taint.key == key and (not value or taint.value == value) for key, value in TOLERATED)
    )
    return taint.effect in _KEEPING_OFF and not tolerated


def _of_pools(pools: Mapping[str, Pool]) -> Iterator[Room]:
    for name, pool in pools.items():
        yield Room(name, pool.gpu, pool.cpu, amount(pool.memory) or 0.0)


def _refusal(
    demand: Demand, nodes: Sequence[Room], pools: Sequence[Room], off: Mapping[str, str]
) -> BadInput:
    """`off`: nodes that no such job comes to, and why."""
    declare = "or name the pool that the cluster's autoscaler adds: targets.kubernetes.pools in matcha.yaml"
    rooms = [*nodes, *pools]
    if off and not rooms:
        return BadInput(
            "No machine of the cluster takes this job: each keeps jobs off.",
            details="\n".join(f"  {name}: {why}" for name, why in off.items()),
            resolution=f"Take what keeps jobs off from a node (kubectl taint node NODE KEY-), {declare}",
        )
    lacking, most = _lacking(demand, rooms)
    kept = [f"  {name} keeps jobs off: {why}" for name, why in off.items()]
    listed = [*(f"  {room.told()}" for room in rooms), *kept] or ["  there is no node"]
    found = "What nodes, and the pools that are declared, have:" if pools else "What nodes have:"
    idle = next((room.name for room in nodes if room.idle_gpus), "") if demand.gpu else ""
    why = [
        f"{idle} has GPUs and does not offer them: NVIDIA's device plugin does not run there (matcha doctor)."
    ]
    return BadInput(
        f"No machine of the cluster can ever run this job: {lacking}.",
        details="\n".join([*(why if idle else ()), found, *listed]),
        resolution=f"Ask for {most}, {declare}",
    )


def _lacking(demand: Demand, rooms: Sequence[Room]) -> tuple[str, str]:
    """What is too much for any of them, and what would not be."""
    gpu = max((room.gpu for room in rooms), default=0)
    cpu = max((room.cpu for room in rooms), default=0.0)
    memory = max((room.memory for room in rooms), default=0.0)
    if demand.gpu > gpu:
        have = f"none has more than {gpu}" if gpu else "none has any"
        return (
            f"{demand.gpu} GPU{'s' if demand.gpu > 1 else ''} asked for, and {have}",
            f"--gpu {gpu} at most" if gpu else "no GPU",
        )
    if demand.cpu is not None and demand.cpu > cpu:
        return f"{demand.cpu:g} CPUs asked for, and none has more than {cpu:g}", f"--cpu {cpu:g} at most"
    if (amount(demand.memory or MEMORY) or 0) > memory:
        most = f"{memory / 2**30:.1f}Gi"
        return (
            f"{demand.memory or MEMORY} of memory needed, and none has more than {most}",
            f"{most} at most",
        )
    return "no machine has all of it at once", "less of one of them"
