"""The line on which whoever leads a pipeline asks for jobs: a socket in a folder that is this user's alone.

JSON, a line each way: `{"check": [{"step", "demand"}]}`, or a step to run. The answer to the latter is
`{"job": NAME}` and, once it is over, `{"over": CONDITION, ...}`. A step whose connection ends is ended.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from matcha.errors import MatchaError

CLOSING_SECONDS = 90.0  # in which the jobs that are left have to end


class Sizes(msgspec.Struct, frozen=True):
    """What a step itself asks for."""

    gpu: int | None = None
    cpu: float | None = None
    memory: str | None = None


class Sized(msgspec.Struct, frozen=True, kw_only=True):
    step: str
    demand: Sizes = Sizes()


class Step(Sized, frozen=True, kw_only=True):
    """A step to run. `env`: variables of it alone."""

    pipeline: str
    command: tuple[str, ...]
    env: dict[str, str] = msgspec.field(default_factory=dict)


class Check(msgspec.Struct, frozen=True, kw_only=True):
    check: tuple[Sized, ...]


class Over(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a step's job."""

    job: str
    over: str
    detail: str = ""
    exit_code: int = -1


class Ended:
    """Whether whoever asked for a step still wants it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._then: Callable[[], None] | None = None
        self.happened = False

    def set(self) -> None:
        with self._mutex:
            self.happened, then = True, self._then
        if then:
            then()

    def calls(self, then: Callable[[], None]) -> None:
        """At once where it has happened already."""
        with self._mutex:
            self._then, happened = then, self.happened
        if happened:
            then()


class Doing(Protocol):
    """What is asked for. Each raises MatchaError, which is the answer then."""

    def check(self, steps: tuple[Sized, ...]) -> None: ...

    def run(self, step: Step, queued: Callable[[str], None], ended: Ended) -> Over:
        """To its end; `queued` gets the job's name. Called from a thread for each step."""


@contextlib.contextmanager
def answering(doing: Doing) -> Iterator[Path]:
    """The socket, for as long as the block takes; then what still runs has to end."""
    with tempfile.TemporaryDirectory(prefix="matcha-") as folder:  # of mode 0700
        address = Path(folder) / "steps"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        callers: list[threading.Thread] = []
        lines: list[socket.socket] = []
        try:
            _bind(listener, address)
            listener.listen()
            threading.Thread(target=_accept, args=(listener, doing, callers, lines), daemon=True).start()
            yield address
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            for line in lines:
                with contextlib.suppress(OSError):
                    line.shutdown(socket.SHUT_RD)
            until = time.monotonic() + CLOSING_SECONDS
            for caller in callers:
                caller.join(max(0.0, until - time.monotonic()))


def _bind(listener: socket.socket, address: Path) -> None:
    """Sockets have short names: some hundred characters with their folders."""
    try:
        listener.bind(str(address))
    except OSError as error:
        raise MatchaError(
            f"The steps of the pipeline cannot be led from {address.parent}: {error.strerror or error}.",
            resolution="TMPDIR=/tmp matcha run --pipeline -- ...",
        ) from error


def _accept(
    listener: socket.socket, doing: Doing, callers: list[threading.Thread], lines: list[socket.socket]
) -> None:
    while True:
        try:
            line, _ = listener.accept()
        except OSError:  # it was closed
            return
        caller = threading.Thread(target=_answer, args=(line, doing), daemon=True)
        lines.append(line)
        callers.append(caller)
        caller.start()


def _answer(line: socket.socket, doing: Doing) -> None:
    def say(what: Any) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more; the job is ended all the same
            line.sendall(msgspec.json.encode(what) + b"\n")

    with line, line.makefile("rb") as said:
        try:
            asked = _read(said.readline())
            if isinstance(asked, Check):
                doing.check(asked.check)
                say({"over": "checked"})
                return
            ended = Ended()
            threading.Thread(target=_until_hung_up, args=(said, ended), daemon=True).start()
            say(doing.run(asked, lambda name: say({"job": name}), ended))
        except MatchaError as error:
            say({"refused": "\n".join(filter(None, (error.message, error.details, _next(error))))})
        finally:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)  # whoever waits for more of it ends


def _read(text: bytes) -> Check | Step:
    try:
        if text.startswith(b'{"check"'):
            return msgspec.json.decode(text, type=Check)
        return msgspec.json.decode(text, type=Step)
    except msgspec.MsgspecError as error:
        raise MatchaError(
            f"What the pipeline asked for was not understood: {error}.", resolution="matcha doctor"
        ) from error


def _until_hung_up(said: Any, ended: Ended) -> None:
    with contextlib.suppress(OSError, ValueError):
        said.read(1)
    ended.set()


def _next(error: MatchaError) -> str:
    return f"Next: {error.resolution}" if error.resolution else ""
