"""Short-lived work processes: one at a time, with a deadline, ended with the service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

from .settings import child_env
from .work import AWAY

DEADLINE_SECONDS = 900
_LOG_TAIL = 4000
LATER = "Captures are kept, and taken in when it can be."


class WorkFailed(Exception):
    """A work process failed; `details` is the end of what it wrote."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class Killed(WorkFailed):
    """Somebody ended it: mostly the system, which has no memory left for it."""


class StoreAway(WorkFailed):
    """The object store cannot be used now. What was captured is kept, and taken in later."""


class Worker:
    """Runs `python -m matcha_monitoring.work`. Callers queue."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    @property
    def busy(self) -> bool:
        return self._turn.locked()

    async def run(self, order: dict[str, Any]) -> dict[str, Any]:
        """The process's answer to the order. Raises WorkFailed."""
        async with self._turn:
            return await _run(order)


async def _run(order: dict[str, Any]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"{__package__}.work"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=child_env(),
        cwd=Path(order["data"]),
        limit=2**24,
    )
    try:
        async with _deadline(DEADLINE_SECONDS):
            answer, log = await _talk(process, order)
    except asyncio.TimeoutError:
        raise WorkFailed(f"It took longer than {DEADLINE_SECONDS // 60} minutes and was ended.") from None
    finally:
        await _end(process)
    return _answer(process.returncode, answer, log)


@contextlib.asynccontextmanager
async def _deadline(seconds: float) -> Any:
    """`asyncio.timeout` for Python 3.10 too. Raises asyncio.TimeoutError."""
    task, late = asyncio.current_task(), False

    def end() -> None:
        nonlocal late
        late = True
        if task:
            task.cancel()

    handle = asyncio.get_running_loop().call_later(seconds, end)
    try:
        yield
    except asyncio.CancelledError:
        if late:
            raise asyncio.TimeoutError from None
        raise
    finally:
        handle.cancel()


async def _talk(process: asyncio.subprocess.Process, order: dict[str, Any]) -> tuple[bytes, bytes]:
    """Send the order and keep its stdin open: the process ends itself when that closes under it."""
    assert process.stdin and process.stdout and process.stderr
    with contextlib.suppress(ConnectionError):
        process.stdin.write(json.dumps(order).encode() + b"\n")
        await process.stdin.drain()
    answer, log = await asyncio.gather(process.stdout.read(), _tail(process.stderr))
    await process.wait()
    return answer, log


async def _tail(stream: asyncio.StreamReader) -> bytes:
    kept = b""
    while chunk := await stream.read(65536):
        kept = (kept + chunk)[-_LOG_TAIL:]
    return kept


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.stdin:
        process.stdin.close()


def _answer(code: int | None, answer: bytes, log: bytes) -> dict[str, Any]:
    text = log.decode(errors="replace").strip()
    if code != 0:
        last = text.splitlines()[-1] if text else ""
        if code == AWAY:
            raise StoreAway(f"{last} {LATER}")
        if code == -signal.SIGKILL:
            raise Killed("The work process was killed, most likely for the memory it took.", text)
        raise WorkFailed(last or f"The work process ended with {code}.", text)
    try:
        found = json.loads(answer)
    except ValueError:
        raise WorkFailed("The work process gave no answer.", text) from None
    return dict(found)
