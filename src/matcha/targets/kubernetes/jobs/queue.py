"""Jobs of a stack in a cluster: queued, followed, listed, ended.

Nothing here takes the stack's lock: whoever trains keeps nobody from provisioning, and what a job needs is
made by its content.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Event as ClusterEvent
from lightkube.resources.core_v1 import Node, Pod, Secret, ServiceAccount

from matcha.access import Access
from matcha.errors import BadInput, MatchaError, NotFound, NotProvisioned
from matcha.events import Emit, Event
from matcha.host.leases import person
from matcha.job import OVER, Demand, JobStatus, RemoteJob
from matcha.service import Environment
from matcha.targets.kubernetes import archives, base, desired, logs, look, why
from matcha.targets.kubernetes.cluster import Cluster, ClusterError, Conflict, Forbidden, Gone
from matcha.targets.kubernetes.jobs import capacity, packing, priority, render, telling
from matcha.targets.kubernetes.jobs.delivery import Delivery
from matcha.targets.kubernetes.machines import machines
from matcha.targets.kubernetes.names import JOB, MINE, NAME
from matcha.targets.kubernetes.options import Image
from matcha.targets.kubernetes.raising import MEND, Raiser
from matcha.targets.kubernetes.refusals import BUSY
from matcha.targets.kubernetes.secrets import Secrets
from matcha.targets.kubernetes.setting import Setting
from matcha.targets.kubernetes.store import ClusterStore

MARKS = {**MINE, NAME: JOB}
POLL = 1.0
AWAY = 3600.0  # seconds for which a cluster that does not answer is asked again: a laptop sleeps
UNHEARD = 60.0  # seconds for which the log of a job that is over is asked for where its node does not answer
# Seconds for which what cannot be started keeps its machine: where trying again may help, and where not.
PATIENCE, REFUSED = 600.0, 30.0
UNUSED = 600.0  # seconds after which a secret without its job belongs to a run that was killed


class Queue:
    """Of the stack that `store` records."""

    def __init__(self, cluster: Cluster, store: ClusterStore, secrets: Secrets) -> None:
        self._cluster = cluster
        self._store = store
        self._secrets = secrets

    # -- in -----------------------------------------------------------------------------------------------

    def place(self, setting: Setting, demand: Demand) -> capacity.Place:
        """Where it may run; who may not list nodes finds out by waiting."""
        try:
            nodes = self._cluster.found_global(Node)
        except Forbidden:
            said = "You may not list nodes: whether one takes the job was not checked."
            return capacity.Place(frozenset(), (said,))
        return capacity.place(demand, nodes, setting.options.pools)

    def bring(self, setting: Setting, access: Access, job: RemoteJob, emit: Emit) -> str:
        """Where its code lies then."""
        self.refuse(job.image)
        return self._bring(Delivery(self._cluster, setting, access), job, emit)

    def _bring(self, delivery: Delivery, job: RemoteJob, emit: Emit) -> str:
        with tempfile.TemporaryDirectory(prefix="matcha-") as folder:
            packed = packing.pack(job.project, job.beside, Path(folder) / "code.tar.gz")
            emit(Event(JOB, "note", _told(packed)))
            return delivery.put_code(packed.file, packed.digest, emit)

    def submit(self, setting: Setting, access: Access, job: RemoteJob, place: str, emit: Emit) -> str:
        """`place`: of the object store (`facts.place`). Raises MatchaError where the stack goes meanwhile:
        then nothing is left of the job.
        """
        stack = self._stack()
        self.refuse(job.image)
        where = self.place(setting, job.demand)
        there = self._machines() if where.machines else machines(self._cluster)
        machine, kinds = _kinds(where.machines, there)
        delivery, rank = Delivery(self._cluster, setting, access), priority.ensure(self._cluster)
        if not job.code:
            job = msgspec.structs.replace(job, code=self._bring(delivery, job, emit))
        if job.environment:
            several = len(there | set(kinds)) > 1
            self._ensure_environment(setting, job.environment, kinds, several, delivery, place, rank, emit)
        made = render.Made(
            name=render.new_name((job.step,) if job.step else job.shown),
            job=job,
            owner=person(),
            machine=machine,
            priority=rank,
        )
        try:
            self._queue(setting, made)
            if self._stack() != stack:
                raise NotProvisioned("The stack was destroyed while the job was queued.")
            with contextlib.suppress(ClusterError):  # the job is queued
                self._tidy(delivery, job.environment)
        except BaseException:  # Ctrl-C, too: nobody knows its name yet
            self._remove(made.name)
            raise
        return made.name

    def _queue(self, setting: Setting, made: render.Made) -> None:
        """What the job reads is there before it. A run that is killed in between leaves a Secret of no job,
        which a later one removes.
        """
        secret = render.secret(made)
        if secret:
            self._cluster.create(*desired.of_stack(setting, [secret]), again=True)
        [wanted] = desired.of_stack(setting, [render.job(setting, made)])
        try:
            job = self._cluster.create(wanted)
        except Conflict:  # an earlier try got through, and its answer was lost
            job = self._cluster.get(Job, made.name)
        if secret and job:
            owners = [owner.to_dict() for owner in render.owned_by(job)]
            with contextlib.suppress(Gone):  # with the stack, which is looked for next
                self._cluster.patch(Secret, made.name, {"metadata": {"ownerReferences": owners}})

    def _stack(self) -> str:
        state = self._store.read()
        if state is None:
            raise NotProvisioned
        return state.stack_id

    def refuse(self, image: str) -> None:
        """Raises BadInput for what no node could run, MatchaError for a stack that is not ready for jobs."""
        if image:
            try:
                msgspec.convert(image, Image)
            except msgspec.ValidationError:
                raise BadInput(
                    f'"{image}" is no name of an image.',
                    details="It is one as in python:3.12-slim or registry.example.com/team/base:7.",
                    resolution="matcha run --image IMAGE -- ...",
                ) from None
        if self._cluster.get(ServiceAccount, JOB) is None:
            raise MatchaError(
                "This stack runs no jobs yet: it was made before Matcha ran them in clusters.",
                resolution="matcha provision",
            )

    def _ensure_environment(
        self,
        setting: Setting,
        environment: Environment,
        kinds: Sequence[str],
        several: bool,
        delivery: Delivery,
        place: str,
        rank: str,
        emit: Emit,
    ) -> None:
        """Built where the archive is not there yet: once for all jobs of the same lock. `several`: the
        cluster has more than one kind of node. `rank`: a PriorityClass, below servers'; empty for none.
        """
        base.check(setting.options, environment)
        places = [archives.placed(setting, environment, kind) for kind in kinds]
        delivery.note_use(places)
        if all(map(delivery.has, places)):
            return
        key = f"environment/{environment.name}"
        began = time.monotonic()
        emit(Event(key, "started", "building what your code needs, once"))
        raiser = Raiser(self._cluster, lambda: None)
        for kind in kinds:
            *before, build = archives.builder(setting, environment, kind if several else "")
            assert build.spec and build.spec.template.spec
            build.spec.template.spec.priorityClassName = rank or None
            parts = desired.of_stack(setting, [*before, build])
            try:
                raiser.run_job(parts, key, archives.BUILD_SECONDS, emit, place=place, advice=MEND)
            except KeyboardInterrupt:
                said = "It goes on being built: the same command goes on with it, or finds it done."
                emit(Event(key, "note", said))
                raise
        emit(Event(key, "done", "", time.monotonic() - began))

    def _machines(self) -> frozenset[str]:
        """Kinds of all nodes, those included that take no pods now."""
        labels = ((n.metadata and n.metadata.labels) or {} for n in self._cluster.found_global(Node))
        return frozenset(each[archives.MACHINE] for each in labels if archives.MACHINE in each)

    def _tidy(self, delivery: Delivery, environment: Environment | None) -> None:
        """What runs that were killed left, and what nothing runs any more."""
        jobs = {job.metadata.name: job for job in self._cluster.found(Job, MARKS)}
        for secret in self._cluster.found(Secret, MARKS):
            made = secret.metadata.creationTimestamp
            if secret.metadata.name not in jobs and made and time.time() - made.timestamp() > UNUSED:
                self._cluster.delete(Secret, secret.metadata.name)
        delivery.drop_requests(jobs)
        delivery.drop_code({(job.metadata.annotations or {}).get(render.CODE, "") for job in jobs.values()})
        if environment is not None:
            pods = [job.spec.template.spec for job in jobs.values()]
            delivery.drop_environments(environment.name, set().union(*map(archives.read_by, pods)))

    # -- what there is ------------------------------------------------------------------------------------

    def jobs(self) -> list[JobStatus]:
        """Newest first."""
        jobs, pods = self._cluster.found(Job, MARKS), self._cluster.found(Pod, MARKS)
        events = self._events() if any(why.is_unexplained(_of(job, pods)) for job in jobs) else ()
        found = [telling.status(job, _of(job, pods), events) for job in jobs]
        return sorted(found, key=lambda each: each.created, reverse=True)

    def status(self, name: str) -> JobStatus:
        """Raises NotFound."""
        job, pods = self._job(name), self._pods(name)
        return telling.status(job, pods, self._events() if why.is_unexplained(pods) else ())

    def cancel(self, name: str) -> None:
        """The job stays to be looked at; its pods go, and their logs."""
        if self.status(name).condition in OVER:
            return
        self._end(name, {render.CANCELLED: person()})

    def _end(self, name: str, notes: Mapping[str, str]) -> None:
        change = {"metadata": {"annotations": notes}, "spec": {"activeDeadlineSeconds": 1}}
        self._cluster.patch(Job, name, change)

    def _job(self, name: str) -> Job:
        found = self._cluster.get(Job, name)
        marks = (found.metadata.labels if found and found.metadata else None) or {}
        if found is None or not marks.items() >= MARKS.items():
            raise NotFound(f'There is no job "{name}".', resolution="matcha jobs list")
        return found

    def _pods(self, name: str) -> list[Pod]:
        return self._cluster.found(Pod, {"job-name": name})

    def _events(self) -> Sequence[ClusterEvent]:
        return look.told(self._cluster)

    def _remove(self, name: str) -> None:
        self._cluster.delete(Job, name)
        self._cluster.delete(Secret, name)

    # -- its log ------------------------------------------------------------------------------------------

    def log(self, name: str, lines: int) -> list[str]:
        """What its newest pod wrote; where that never came to the command, what stopped it."""
        self._job(name)
        pod = telling.newest(self._pods(name))
        if pod is None:
            return []
        found = telling.main(pod) if telling.has_begun(pod) else logs.stuck_in(pod)
        said = logs.last_lines(self._cluster, pod, found, lines) if found else []
        return self._secrets.redact(logs.texts(said))

    def follow(self, name: str, emit: Emit, *, lines: int) -> Iterator[str]:
        """Until it is over. A cluster that does not answer, or is busy (as while it is upgraded), is asked
        again, and so is a node that does not hand out the log: the job goes on meanwhile, or starts again.
        """
        key, read, told, silence = f"job/{name}", dict[str, logs.Read](), "", _Silence()
        stuck = _Stuck()
        while True:
            found = None
            try:
                found, pods = self.status(name), self._pods(name)
                pod = telling.newest(pods)
                if pod is not None and telling.has_begun(pod):
                    if not read:
                        emit(Event(key, "done", f"runs on {found.node}"))
                    for line in self._lines(pod, read, lines):
                        yield self._secrets.redact([line])[0]
                if found.condition in OVER:
                    return
                if reason := stuck.given_up(pod):
                    self._give_up(name, reason)
                silence = _Silence()
                said = found.detail or found.condition
            except ClusterError as error:
                if silence.is_over(found, error):
                    return
                said = _unheard(found)
            if said != told:
                told = said
                if said != "running" or not read:
                    emit(Event(key, "progress", said))
            time.sleep(POLL)

    def _give_up(self, name: str, reason: str) -> None:
        """It holds what its machine has, a GPU perhaps. Who may only look goes on looking."""
        with contextlib.suppress(Forbidden):
            self._end(name, {render.GIVEN_UP: reason})

    def _lines(self, pod: Pod, read: dict[str, logs.Read], lines: int) -> Iterator[str]:
        status, uid = telling.main(pod), str(pod.metadata.uid if pod.metadata else "")
        assert status
        if uid not in read:
            first, read[uid] = not read, logs.Read(status.restartCount)
            if first and lines >= 0:
                yield from read[uid].further(logs.last_lines(self._cluster, pod, status, max(lines, 1)))
                read[uid].cut_off()
        yield from logs.read_on(self._cluster, pod, status, read[uid])


class _Stuck:
    """A pod on a machine that cannot start it, since when and why."""

    def __init__(self) -> None:
        self._since = 0.0
        self._refusal = ""

    def given_up(self, pod: Pod | None) -> str:
        """Why, once that has gone on for too long; empty before."""
        reason, never = ("", False) if telling.has_begun(pod) else why.unstartable(pod)
        if not reason:
            self._since, self._refusal = 0.0, ""
            return ""
        self._since = self._since or time.monotonic()
        self._refusal = reason if never else self._refusal  # between two tries a node may not say why
        patience = REFUSED if self._refusal else PATIENCE
        return (self._refusal or reason) if time.monotonic() - self._since > patience else ""


class _Silence:
    """Of the cluster, or of the pod's node alone, since when."""

    def __init__(self) -> None:
        self._cluster = self._node = 0.0

    def is_over(self, found: JobStatus | None, error: ClusterError) -> bool:
        """Whether there is nothing to wait for any more. Raises `error` where waiting does not help. `found`:
        what the cluster said of the job a moment ago, None where it does not answer.
        """
        if error.status and error.status not in BUSY:
            raise error
        now = time.monotonic()
        if found is not None:
            self._cluster, self._node = 0.0, self._node or now
            return found.condition in OVER and now - self._node > UNHEARD
        self._cluster = self._cluster or now
        if now - self._cluster > AWAY:
            raise error
        return False


def _unheard(found: JobStatus | None) -> str:
    if found is None:
        return "the cluster does not answer; the job goes on"
    return found.detail or f"{found.node} does not hand out its log"


def _of(job: Job, pods: Sequence[Pod]) -> list[Pod]:
    name = job.metadata.name if job.metadata else ""
    return [pod for pod in pods if (pod.metadata.labels or {}).get("job-name") == name]  # type: ignore[union-attr]


def _kinds(taking: frozenset[str], there: frozenset[str]) -> tuple[str, list[str]]:
    """The kind of node to run on, empty for any, and those that its environment is built for. `taking`: kinds
    that take the job, none where that is not known; `there`: kinds that the cluster has.
    """
    if not taking:
        return "", sorted(there) or ["amd64"]
    one = "amd64" if "amd64" in taking else min(taking)
    return one if there - {one} else "", [one]


def _told(packed: packing.Packed) -> str:
    size = f"{packing.mebibytes(packed.size)}, {packing.mebibytes(packed.packed)} with Matcha's own, packed"
    left = (
        ""
        if not packed.left
        else (
            f" Links left out, since what they stand for is not there or left out: {', '.join(packed.left)}."
        )
    )
    return f"Your code: {packed.files} file{'s' if packed.files != 1 else ''}, {size}.{left}"
