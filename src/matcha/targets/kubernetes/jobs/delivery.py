"""What this machine brings to the object store for jobs, and what it finds there."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO

from lightkube.resources.core_v1 import Secret

from matcha.access import Access
from matcha.errors import MatchaError
from matcha.events import Emit, Event
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.inside.matcha_pod import archive, multipart, relay
from matcha.targets.kubernetes.inside.matcha_pod.ending import Code, Deadline, Failed, Progress, hushed
from matcha.targets.kubernetes.inside.matcha_pod.s3 import Answer, Asked, Place, Store
from matcha.targets.kubernetes.secrets import values
from matcha.targets.kubernetes.setting import Setting

SECONDS = 900.0  # for an upload
AGE = 7 * 86400.0  # seconds after which code that no job uses is removed
IDLE = 30 * 86400.0  # seconds since a job used it after which an environment is
USED = ".used"  # beside an environment: an empty object, as old as its last use
CHUNK = 1 << 20
OTHERS_SECONDS, POLL = 300.0, 1.0  # for an upload of somebody else


class Delivery:
    """The object store, as this machine reaches it. Every method raises MatchaError."""

    def __init__(self, cluster: Cluster, setting: Setting, access: Access) -> None:
        self._where = setting.storage.url
        self._environ = _environ(cluster, setting, access)
        self._store = Store(self._environ, Deadline(SECONDS))

    def asked(self, job: str) -> dict[str, str]:
        """As `relay.asked`."""
        with self._telling("looking for what the job asks for"):
            return relay.asked(self._now(), relay.address(self._where, job))

    def answer(self, job: str, number: str, text: str) -> None:
        with self._telling("answering the job"):
            relay.answer(self._now(), relay.address(self._where, job), number, text)

    def _now(self) -> Store:
        """With time of its own: whoever follows a job asks for hours."""
        return self._store.within(relay.SECONDS)

    def drop_requests(self, jobs: Container[str]) -> None:
        """Of jobs that are not among these: they were killed while they waited."""
        place = Place.of(f"{relay.address(self._where, '')}")
        with contextlib.suppress(MatchaError), self._telling("tidying"):
            for key in list(self._store.keys(place)):
                if key.removeprefix(place.key).partition("/")[0] not in jobs:
                    self._store.ask(Asked("DELETE", Place(place.bucket, key)))

    def has(self, address: str) -> bool:
        with self._telling("looking for what is there"):
            return self._head(address) is not None

    def _head(self, address: str) -> Answer | None:
        try:
            return self._store.ask(Asked("HEAD", Place.of(address)))
        except Failed as error:
            if error.code != Code.MISSING:
                raise
            return None

    def _has_fresh(self, address: str) -> bool:
        """Brought so lately that it is there when the job begins, whoever tidies meanwhile."""
        found = self._head(address)
        return found is not None and time.time() - _modified(found) < AGE / 2

    def put_code(self, file: Path, digest: str, emit: Emit) -> str:
        """Where it lies then. The same code is brought once, and again before it is as old as what goes."""
        address = f"{self._where}/jobs/code-{digest[:32]}.tar.gz"
        with self._telling("looking for what is there"):
            if self._has_fresh(address):
                return address
        size = file.stat().st_size

        def told(done: int) -> None:
            emit(
                Event(
                    "job",
                    "progress",
                    f"bringing the code there: {done / 2**20:.1f} of {size / 2**20:.1f} MiB",
                )
            )

        with self._telling("bringing the code there"), file.open("rb") as source:
            sums = archive.Hashed(source, Progress("", size)).to_end()
            source.seek(0)
            try:
                multipart.upload(self._store, Place.of(address), _chunks(source, told), sums)
            except Failed as error:
                # Of two at once, the later one ends the other's, and brings the same there.
                if error.reason != "NoSuchUpload" or not self._comes(address):
                    raise
        return address

    def _comes(self, address: str) -> bool:
        end = time.monotonic() + OTHERS_SECONDS
        while not (found := self._has_fresh(address)) and time.monotonic() < end:
            time.sleep(POLL)
        return found

    def note_use(self, environments: Iterable[str]) -> None:
        """Of these archives, by a job that is about to be queued."""
        with self._telling("noting what the job uses"):
            for each in environments:
                self._store.ask(Asked("PUT", Place.of(each + USED)))

    def drop_code(self, used: Container[str]) -> None:
        """What is older than a week and in no use goes; only an answer that says both counts."""
        with contextlib.suppress(MatchaError), self._telling("tidying"):
            for address, at in self._times("jobs/code-").items():
                if time.time() - at > AGE and address not in used:
                    self._store.ask(Asked("DELETE", Place.of(address)))

    def drop_environments(self, name: str, used: Container[str]) -> None:
        """Archives of the environment `name` that no job has used for a month; one that is used later is
        built again.
        """
        with contextlib.suppress(MatchaError), self._telling("tidying"):
            times = self._times(f"environments/{name}-")
            for address, at in times.items():
                last = max(at, times.get(address + USED, 0.0))
                if address.removesuffix(USED) not in used and time.time() - last > IDLE:
                    self._store.ask(Asked("DELETE", Place.of(address)))

    def _times(self, under: str) -> dict[str, float]:
        """Of the first thousand: addresses, and when they were written, in Unix time."""
        place = Place.of(f"{self._where}/{under}")
        query = {"list-type": "2", "prefix": place.key}
        page = self._store.ask(Asked("GET", Place(place.bucket, ""), query))
        keys = (str(Place(place.bucket, key)) for key in page.all("Key"))
        return {key: _unix(when) for key, when in zip(keys, page.all("LastModified"), strict=True)}

    @contextlib.contextmanager
    def _telling(self, doing: str) -> Iterator[None]:
        """What the store's client says of its tries is for logs of pods."""
        try:
            with hushed():
                yield
        except Failed as error:
            raise MatchaError(
                f"The object store could not be used for the job ({doing}).",
                details=str(error),
                resolution="matcha doctor",
            ) from error


def _environ(cluster: Cluster, setting: Setting, access: Access) -> Mapping[str, str]:
    """Of a store that is not Matcha's, the keys are those that its pods have."""
    found = {name: output.value for name, output in access.store_env().items()}
    storage = setting.storage
    if storage.own:
        return found
    held = values(cluster.get(Secret, storage.secret))
    keys = {"AWS_ACCESS_KEY_ID": storage.access_key, "AWS_SECRET_ACCESS_KEY": storage.secret_key}
    return {**found, **{name: held.get(key, "") for name, key in keys.items()}}


def _chunks(source: IO[bytes], told: Callable[[int], None]) -> Iterator[bytes]:
    done = 0
    while chunk := source.read(CHUNK):
        yield chunk
        done += len(chunk)
        told(done)


def _modified(head: Answer) -> float:
    """0 where the store does not say."""
    try:
        return parsedate_to_datetime(head.headers.get("last-modified", "")).timestamp()
    except (TypeError, ValueError):
        return 0.0


def _unix(when: str) -> float:
    return datetime.datetime.fromisoformat(when.replace("Z", "+00:00")).timestamp()
