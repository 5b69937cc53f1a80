"""The state record and its lock as objects of the namespace, where a team shares them.

The record is a ConfigMap, the lock a Lease. Whoever gets the lock puts its token on the record before
anything else, and every write names the version of the record that it replaces: from then on whatever an
earlier holder sends is refused, however long it slept or its request was on the way.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable
from functools import partial

import msgspec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap

from matcha import state as states
from matcha.errors import Locked, MatchaError
from matcha.events import Emit, Event
from matcha.host.leases import Lease, decoded, elapsed, held, is_corrupt, machine, public, queue
from matcha.state import State
from matcha.target import LockInfo
from matcha.targets.kubernetes import ownership, space
from matcha.targets.kubernetes.cluster import Cluster, ClusterError, Conflict, Forbidden
from matcha.targets.kubernetes.lock import ClusterLock, Terminating
from matcha.targets.kubernetes.names import COPY_OF, MANAGER, STATE, labels, put_instance
from matcha.targets.kubernetes.versions import TRIES, is_unsettled, remove, replace

CONTENT = "state.json"
HOLDER = "matcha-ml/holder"  # annotation of the record: token of the lock whose holder alone may write it
LARGEST = 900 * 1024
LEFT = "The record is left as it is."
_POLL = 1.0


class ClusterStore:
    """`matcha.target.StateStore` in the cluster's namespace.

    `prepare` makes the namespace; it is called when a write finds none. `last` is called before the lock of a
    stack without a record is given back, with what raises Locked where it was lost. The rest is for tests:
    `clock` gives Unix seconds, `timer` seconds that pass while the machine sleeps too, `place` is what this
    process is of.
    """

    def __init__(
        self,
        cluster: Cluster,
        prepare: Callable[[], None] | None = None,
        last: Callable[[Callable[[], None]], None] = lambda _: None,
        *,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = elapsed,
        sleep: Callable[[float], None] = time.sleep,
        place: str = "",
    ) -> None:
        self._cluster = cluster
        self._last = last
        self._clock = clock
        self._timer = timer
        self._sleep = sleep
        prepare = prepare or partial(space.make, cluster)
        self._lock = ClusterLock(cluster, prepare, clock=clock, timer=timer, place=place or machine())
        self._record: _Record | None = None
        self._mutex = threading.RLock()

    # -- the record ------------------------------------------------------------------------------------

    def read(self) -> State | None:
        """Writes nothing but, for who holds the lock, a copy of a record that cannot be read. Raises Conflict
        for a record of somebody else, as everything here does.
        """
        found = found_record(self._cluster)
        if found is None or _is_empty(found):
            return None
        raw = (found.data or {}).get(CONTENT, "").encode()
        place = f"configmap/{STATE} in namespace {self._cluster.namespace}"
        return decoded(raw, place, lambda: self._keep(found) if self._record else LEFT)

    def is_corrupt(self) -> bool:
        """Whether there is a record that no Matcha can read; one of a newer Matcha is not meant."""
        found = found_record(self._cluster)
        if found is None or _is_empty(found):
            return False
        return is_corrupt((found.data or {}).get(CONTENT, "").encode())

    def set_aside(self) -> None:
        """Take a corrupt record away, so that a stack can be provisioned; its copy stays. Raises Locked where
        somebody is changing the stack, MatchaError where there is no copy: the record then stays.
        """
        if (holder := self.lock()) is not None:
            raise held(holder, self._clock())
        found = found_record(self._cluster)
        if found and self.is_corrupt():
            try:
                self._copy(found)
            except ClusterError as error:
                raise self._uncopied(error) from error
            remove(self._cluster, found)

    def _keep(self, found: ConfigMap) -> str:
        try:
            return f"{LEFT[:-1]}; a copy is configmap/{self._copy(found)}."
        except ClusterError:
            return ""

    def _copy(self, found: ConfigMap) -> str:
        """The name of a copy beside the record: by its content, so that there is one for each."""
        content = msgspec.json.encode((found.data, found.binaryData), order="deterministic")
        name = f"{STATE}-corrupt-{hashlib.sha256(content).hexdigest()[:10]}"
        marks = {**labels(name, MANAGER), COPY_OF: STATE}
        copy = ConfigMap(
            metadata=ObjectMeta(name=name, labels=marks), data=found.data, binaryData=found.binaryData
        )
        try:
            self._cluster.create(*put_instance([copy], self._cluster.namespace))
        except Conflict:
            there = self._cluster.get(ConfigMap, name)
            if there is None or (there.data, there.binaryData) != (found.data, found.binaryData):
                raise
        return name

    def _uncopied(self, error: ClusterError) -> MatchaError:
        kubectl = f"kubectl --namespace {self._cluster.namespace}"
        return MatchaError(
            "The corrupt record could not be copied, and was left as it is.",
            details=f"{error.message} {error.details}".strip(),
            resolution=f"{kubectl} get configmap {STATE} --output yaml > {STATE}.yaml, then: "
            f"{kubectl} delete configmap {STATE}",
        )

    def write(self, state: State, token: str) -> None:
        """Raises MatchaError for a record that is too large for a ConfigMap; the old one then stays."""
        raw = states.encode(state)
        if len(raw) > LARGEST:
            raise _too_large(len(raw))
        with self._mutex:
            self._mine(token).write({CONTENT: raw.decode()})

    def delete(self, token: str) -> None:
        with self._mutex:
            self._mine(token).delete()
            with contextlib.suppress(Forbidden):  # who may not list may not have made copies
                for copy in self._cluster.found(ConfigMap, {COPY_OF: STATE}):
                    self._cluster.delete(ConfigMap, copy.metadata.name)

    def _mine(self, token: str) -> _Record:
        """Another store may have taken the lock: then what is known of the record begins here."""
        if self._record is None or self._record.token != token:
            self._lock.renew(token)
            record = _Record(self._cluster, self._lock, token)
            record.look()
            self._record = record
        return self._record

    # -- the lock --------------------------------------------------------------------------------------

    def acquire(self, operation: str, *, wait: float, emit: Emit) -> LockInfo:
        """Waits as well for a namespace that is being removed; raises MatchaError where it stays."""
        began = self._timer()
        while True:
            waited = self._timer() - began
            try:
                lease = self._queue(operation, wait - waited, emit)
                break
            except Terminating as error:
                if waited >= wait:
                    raise
                emit(Event("stack", "progress", error.message, waited))
                self._sleep(_POLL)
        try:
            self._claim(lease.token)
        except BaseException:
            with contextlib.suppress(MatchaError):
                self._lock.release(lease.token)
            raise
        return public(lease)

    def _queue(self, operation: str, wait: float, emit: Emit) -> Lease:
        return queue(
            partial(self._lock.attempt, operation),
            wait=wait,
            emit=emit,
            clock=self._clock,
            pause=_POLL,
            timer=self._timer,
            sleep=self._sleep,
        )

    def _claim(self, token: str) -> None:
        with self._mutex:
            self._record = _Record(self._cluster, self._lock, token)
            self._record.claim()

    def renew(self, token: str) -> None:
        self._lock.renew(token)

    def fence(self) -> None:
        """Before every write of another object: raises Locked unless this store's lock surely stays held for
        the time that such a write takes.
        """
        self._lock.fence()

    def release(self, token: str) -> None:
        """A cluster that does not answer is let be: the lock ends by itself."""
        with self._mutex:
            try:
                self._release(token)
            except ClusterError as error:
                if 400 <= error.status < 500:
                    raise

    def _release(self, token: str) -> None:
        try:
            record = self._mine(token)
            record.drop_empty()
            if record.is_gone:
                self._last(partial(self._lock.renew, token))
        except Locked:
            return
        finally:
            self._record = None
            self._lock.release(token)

    def lock(self) -> LockInfo | None:
        holder, is_over = self._lock.holder()
        return public(holder) if holder and not is_over else None

    def stale(self) -> LockInfo | None:
        """A lock that its owner left behind; it is in nobody's way for long."""
        holder, is_over = self._lock.holder()
        return public(holder) if holder and is_over else None

    def break_lock(self) -> LockInfo | None:
        holder = self._lock.take_away()
        if holder is None:
            return None
        _Record(self._cluster, self._lock, holder.token).revoke()
        return public(holder)


class _Record:
    """The record as one holder of the lock sees and changes it.

    Every change asks for the lock after what stands there was read and before that is replaced, so no holder
    overrules one that came later.
    """

    def __init__(self, cluster: Cluster, lock: ClusterLock, token: str) -> None:
        self.token = token
        self._cluster = cluster
        self._lock = lock
        self._seen: ConfigMap | None = None

    def claim(self) -> None:
        """Puts the token on the record, made where there is none, so that earlier holders cannot write it."""
        self._read()
        self._put(None, self._read)

    def write(self, data: dict[str, str]) -> None:
        self._put(data, self.look)

    def _read(self) -> None:
        self._seen = found_record(self._cluster)

    def look(self) -> None:
        """Raises Locked where another holder has claimed it, or where it is gone and the lock with it."""
        found = found_record(self._cluster)
        if found is None:
            self._lock.renew(self.token)
        elif _holder(found) != self.token:
            raise self._lock.lost()
        self._seen = found

    def _put(self, data: dict[str, str] | None, look: Callable[[], None]) -> None:
        """Without `data` what is there stays."""
        for left in reversed(range(TRIES)):
            self._lock.ensure(self.token)
            [wanted] = self._marked(_record(self._seen, self.token, data))
            try:
                self._seen = replace(self._cluster, wanted) if self._seen else self._cluster.create(wanted)
                return
            except ClusterError as error:
                if not left or not is_unsettled(error):
                    raise
            look()
            if self._seen and _holder(self._seen) == self.token and self._seen.data == wanted.data:
                return  # written, but the answer was lost

    def delete(self) -> None:
        for left in reversed(range(TRIES)):
            self._lock.ensure(self.token)
            if self._seen is None:
                return
            try:
                remove(self._cluster, self._seen)
                self._seen = None
            except ClusterError as error:
                if not left or not is_unsettled(error):
                    raise
                self.look()

    @property
    def is_gone(self) -> bool:
        return self._seen is None

    def drop_empty(self) -> None:
        """What `claim` made and nothing was written to."""
        if self._seen is not None and _is_empty(self._seen):
            self.delete()

    def revoke(self) -> None:
        """Takes the token off again, if it is still there."""
        for left in reversed(range(TRIES)):
            self._read()
            if self._seen is None or _holder(self._seen) != self.token:
                return
            try:
                self._unmark(self._seen)
            except ClusterError as error:
                if not left or not is_unsettled(error):
                    raise

    def _unmark(self, seen: ConfigMap) -> None:
        if _is_empty(seen):
            remove(self._cluster, seen)
        else:
            replace(self._cluster, *self._marked(_record(seen, "", None)))

    def _marked(self, obj: ConfigMap) -> list[ConfigMap]:
        return put_instance([obj], self._cluster.namespace)


def found_record(cluster: Cluster) -> ConfigMap | None:
    """Raises Conflict for one of somebody else, which is neither read nor written."""
    found = cluster.get(ConfigMap, STATE)
    ownership.refuse(cluster, found)
    return found


def _record(over: ConfigMap | None, token: str, data: dict[str, str] | None) -> ConfigMap:
    """What is to be written over `over`, if that is still there as it was."""
    known = over.metadata if over and over.metadata else ObjectMeta(name=STATE)
    metadata = msgspec.structs.replace(
        known,
        labels={**(known.labels or {}), **labels(STATE, MANAGER)},
        annotations={**(known.annotations or {}), HOLDER: token},
        managedFields=None,
    )
    if over and data is None:
        return ConfigMap(metadata=metadata, data=over.data, binaryData=over.binaryData)
    return ConfigMap(metadata=metadata, data=data)


def _holder(found: ConfigMap) -> str:
    notes = found.metadata.annotations if found.metadata else None
    return str((notes or {}).get(HOLDER, ""))


def _is_empty(found: ConfigMap) -> bool:
    return not (found.data or found.binaryData)


def _too_large(size: int) -> MatchaError:
    return MatchaError(
        f"The record of this stack has grown too large to be kept: {size // 1024} KiB.",
        details=f"A ConfigMap holds 1 MiB; Matcha stops at {LARGEST // 1024} KiB.",
        resolution="matcha undeploy NAME, for what need no longer be served",
    )
