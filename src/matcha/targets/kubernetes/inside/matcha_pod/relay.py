"""What a job asks of whoever follows it: it has no right in the cluster itself. By objects of the store.

A request is `NUMBER.ask` below the job's own address, its answer `NUMBER.answer`; both are text. Everything
raises Failed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time

from .ending import Code, Deadline, Failed, hushed
from .s3 import Asked, Place, Store

ADDRESS = "MATCHA_RELAY_ADDRESS"  # variable of a job: where its requests lie
ASK, ANSWER = ".ask", ".answer"
POLL = 1.0
SECONDS = 120.0  # for one look at the store
LONGEST = 1 << 20  # bytes of a text that are read


def address(storage: str, job: str) -> str:
    return f"{storage}/jobs/relay/{job}"


def ask(text: str, seconds: float) -> str:
    """In a job: the answer."""
    with hushed():  # the output is the job's
        return _ask(Store(os.environ, Deadline(seconds + SECONDS)), os.environ[ADDRESS], text, seconds)


def _ask(store: Store, under: str, text: str, seconds: float) -> str:
    number = f"{time.time():.3f}-{secrets.token_hex(4)}"
    store.ask(Asked("PUT", Place.of(f"{under}/{number}{ASK}"), body=text.encode()))
    deadline = time.monotonic() + seconds
    while (found := _text(store, f"{under}/{number}{ANSWER}")) is None and time.monotonic() < deadline:
        time.sleep(POLL)
    for end in (ASK, ANSWER):
        with contextlib.suppress(Failed):
            store.ask(Asked("DELETE", Place.of(f"{under}/{number}{end}")))
    if found is None:
        raise Failed(f"Nobody who follows this job answered within {seconds:.0f} s.", Code.LATE)
    return found


def asked(store: Store, under: str) -> dict[str, str]:
    """Requests without an answer, by number, oldest first."""
    place = Place.of(f"{under}/")
    keys = list(store.keys(place))
    answered = {key.removesuffix(ANSWER) for key in keys if key.endswith(ANSWER)}
    waiting = [key.removesuffix(ASK) for key in keys if key.endswith(ASK)]
    found = {key: _text(store, f"s3://{place.bucket}/{key}{ASK}") for key in waiting if key not in answered}
    return {key.rpartition("/")[2]: text for key, text in found.items() if text is not None}


def answer(store: Store, under: str, number: str, text: str) -> None:
    store.ask(Asked("PUT", Place.of(f"{under}/{number}{ANSWER}"), body=text.encode()))


def _text(store: Store, place: str) -> str | None:
    try:
        found = store.ask(Asked("GET", Place.of(place), headers={"Range": f"bytes=0-{LONGEST}"}))
    except Failed as error:
        if error.code != Code.MISSING:
            raise
        return None
    return found.body.decode(errors="replace")
