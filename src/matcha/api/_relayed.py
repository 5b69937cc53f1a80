"""What code in a job on another machine asks for: it has no right on the target, who follows it has."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence

import msgspec

from matcha import worker
from matcha.api.types import DeployResult
from matcha.errors import MatchaError
from matcha.events import Emit, Event
from matcha.job import Relaying

SECONDS = 1200.0  # that a job waits: an environment of the model's own may be built first
POLL = 2.0
MODULE = "MATCHA_RELAY"  # variable of a job: the module whose `ask` reaches whoever follows it


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A call of `deploy`."""

    model: str
    name: str | None = None
    sensitive: tuple[str, ...] = ()
    dedicated: bool = False


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """`result` of what was done, or why it was not."""

    result: DeployResult | None = None
    message: str = ""
    details: str = ""
    resolution: str = ""


Do = Callable[[Wish], DeployResult]


def is_here() -> bool:
    """Whether this is such a job."""
    return MODULE in os.environ


def deploy(model: str, *, name: str | None, sensitive: Sequence[str], dedicated: bool) -> DeployResult:
    """As `matcha.deploy`; the training data is sampled first, which lies here."""
    if began := os.environ.get(worker.BEGAN):
        worker.after(os.environ.get(worker.SAMPLER, ""), int(began))
    wish = Wish(model=model, name=name, sensitive=tuple(sensitive), dedicated=dedicated)
    said = _ask(msgspec.json.encode(wish).decode())
    reply = msgspec.json.decode(said, type=Reply)
    if reply.result is None:
        raise MatchaError(reply.message, details=reply.details, resolution=reply.resolution)
    return reply.result


def _ask(text: str) -> str:
    ask: Callable[[str, float], str] = importlib.import_module(os.environ[MODULE]).ask
    try:
        return ask(text, SECONDS)
    except Exception as error:  # whatever the target's module raises
        raise MatchaError(
            str(error),
            details="A job has no right in the cluster: whoever follows it does what it asks for.",
            resolution=f"matcha jobs logs {os.environ.get('MATCHA_JOB', 'JOB')} --follow",
        ) from error


@contextlib.contextmanager
def answering(queue: object, job: str, do: Do, emit: Emit) -> Iterator[None]:
    """Do what the job asks for, while the block takes. `do` raises MatchaError."""
    if not isinstance(queue, Relaying):
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_answer, args=(queue, job, do, emit, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _answer(queue: Relaying, job: str, do: Do, emit: Emit, over: threading.Event) -> None:
    """A look that fails is no end: the next one may not."""
    while not over.wait(POLL):
        with contextlib.suppress(MatchaError):
            for number, text in queue.asked(job).items():
                queue.answer(job, number, msgspec.json.encode(_reply(job, text, do, emit)).decode())


def _reply(job: str, text: str, do: Do, emit: Emit) -> Reply:
    try:
        wish = msgspec.json.decode(text, type=Wish)
    except msgspec.MsgspecError as error:
        return Reply(
            message=f"What the job asked for was not understood: {error}.", resolution="matcha doctor"
        )
    called = f" as {wish.name}" if wish.name else ""
    emit(Event(f"job/{job}", "note", f"{job} asks to deploy {wish.model}{called}."))
    try:
        return Reply(result=do(wish))
    except MatchaError as error:
        return Reply(message=error.message, details=error.details, resolution=error.resolution)
