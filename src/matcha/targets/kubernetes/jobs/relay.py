"""What a job asks of whoever follows it: it has no right in the cluster itself. By objects of the store.

A request is `NUMBER.ask` below the job's own address, its answer `NUMBER.answer`; both are text.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import time
from collections.abc import Iterator

from matcha.errors import MatchaError
from matcha.targets.kubernetes.inside.matcha_pod.ending import Code, Deadline, Failed
from matcha.targets.kubernetes.inside.matcha_pod.s3 import Asked, Place, Store

ADDRESS = "MATCHA_RELAY_ADDRESS"  # variable of a job: where its requests lie
ASK, ANSWER = ".ask", ".answer"
POLL = 1.0
SECONDS = 120.0  # for one look at the store
LONGEST = 1 << 20  # bytes of a request that are read


def address(storage: str, job: str) -> str:
    return f"{storage}/jobs/relay/{job}"


def ask(text: str, seconds: float) -> str:
    """In a job: the answer. Raises MatchaError where there is none in time, or the store is out of reach."""
    store, under = Store(os.environ, Deadline(seconds + SECONDS)), os.environ[ADDRESS]
    number = f"{time.time():.3f}-{secrets.token_hex(4)}"
    with _telling():
        store.ask(Asked("PUT", Place.of(f"{under}/{number}{ASK}"), body=text.encode()))
        deadline = time.monotonic() + seconds
        while (found := _text(store, f"{under}/{number}{ANSWER}")) is None:
            if time.monotonic() > deadline:
                break
            time.sleep(POLL)
        _drop(store, f"{under}/{number}{ASK}")
        if found is not None:
            _drop(store, f"{under}/{number}{ANSWER}")
            return found
    name = os.environ.get("MATCHA_JOB", "JOB")
    raise MatchaError(
        f"Nobody answered within {seconds:.0f} s: a job has no right in the cluster, and whoever follows it "
        "does what it asks for.",
        resolution=f"matcha jobs logs {name} --follow",
    )


def asked(store: Store, under: str) -> dict[str, str]:
    """Requests without an answer, by number, oldest first."""
    with _telling():
        place = Place.of(f"{under}/")
        keys = list(store.keys(place))
        answered = {key.removesuffix(ANSWER) for key in keys if key.endswith(ANSWER)}
        open_ = [key.removesuffix(ASK) for key in keys if key.endswith(ASK)]
        found = {key: _text(store, f"s3://{place.bucket}/{key}{ASK}") for key in open_ if key not in answered}
    return {key.rpartition("/")[2]: text for key, text in found.items() if text is not None}


def answer(store: Store, under: str, number: str, text: str) -> None:
    with _telling():
        store.ask(Asked("PUT", Place.of(f"{under}/{number}{ANSWER}"), body=text.encode()))


def _text(store: Store, place: str) -> str | None:
    try:
        found = store.ask(Asked("GET", Place.of(place), headers={"Range": f"bytes=0-{LONGEST}"}))
    except Failed as error:
        if error.code != Code.MISSING:
            raise
        return None
    return found.body.decode(errors="replace")


def _drop(store: Store, place: str) -> None:
    with contextlib.suppress(Failed):
        store.ask(Asked("DELETE", Place.of(place)))


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """What the store's client says of its tries is for logs of pods."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except Failed as error:
        raise MatchaError(
            "What a job asks for could not be passed on.", details=str(error), resolution="matcha doctor"
        ) from error
