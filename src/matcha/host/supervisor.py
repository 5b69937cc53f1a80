"""One supervisord a stack, as its client sees it.

home/programs/NAME.json      what to run (read by the launcher at every start of the program)
home/restarts/NAME.json      how often it was restarted (written by the health listener)
home/runs/NAME               that it has run before
home/supervisord.conf        made from the program files before every change
home/*.log                   the daemon's and the listener's own
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from matcha.errors import NotFound, suggest
from matcha.host import programs, rpc
from matcha.host.daemon import POLL, Daemon, SupervisorFailed
from matcha.host.files import guarded, private_folder, write_private
from matcha.host.programs import LISTENER, Program, ProgramFile, ProgramStatus

GRACE = 3.0  # seconds between SIGTERM and SIGKILL for what should not be there any more
_CONDITIONS: dict[str, Literal["stopped", "starting", "running", "failed"]] = {
    "STOPPED": "stopped",
    "STOPPING": "stopped",
    "STARTING": "running",
    "RUNNING": "running",
    "BACKOFF": "starting",
    "EXITED": "starting",
}


class Supervisor:
    """Runs programs that outlive the caller.

    `home` (made, 0700) holds everything written: configuration, program files, the daemon's log. `runtime`
    is a short 0700 folder for the socket. `tag` is unique to the stack and stands in every child's
    environment as MATCHA_STACK_TAG. Calls that change something need the stack's lock; within one process
    they may come from several threads at once. Every call ends within a deadline and raises MatchaError.

    A program that dies within `settle` seconds of its start is tried again after 1, 2, 3 ... seconds,
    `retries` times; then it has failed, and is tried anew after `pause` seconds, twice that, and so on up to
    five minutes.
    """

    def __init__(
        self, home: Path, runtime: Path, tag: str, *, settle: int = 20, retries: int = 3, pause: float = 30.0
    ) -> None:
        self.home, self.runtime, self.tag = home, runtime, tag
        self._settle, self._retries, self._pause = settle, retries, pause
        self._daemon = Daemon(home, runtime, tag)
        self._lock = threading.Lock()

    def alive(self) -> bool:
        """Whether the daemon answers. Cheap."""
        return self._daemon.alive()

    def ensure(self) -> None:
        """Have the daemon up, with every program that was put; before a start, end what an earlier left."""
        with _told("start"):
            private_folder(self.home).chmod(0o700)
            with guarded(self.home / "start.lock", wait=90.0):
                if self.alive() and self._daemon.is_fit():
                    self._daemon.mend()
                    return
                self.shutdown()
                self._write_configuration()
                self._daemon.start(self._pause)

    def programs(self) -> dict[str, ProgramStatus]:
        """Every program by name. Without a daemon all are `stopped`. Safe at any time, takes no lock."""
        infos = self._infos()
        entries = programs.read_all(self.home)
        return {name: self._status(entry, infos.get(name)) for name, entry in entries.items()}

    def put(self, program: Program) -> None:
        """Add `program` and start it, or replace and restart the one of that name; no other is touched.

        Returns once the process is spawned, not once it is healthy. It comes back after a restart of the
        daemon. Starts the daemon if need be. Raises BadInput for what cannot be run.
        """
        programs.check(program, self.home)
        self.ensure()
        self._take_out(program.name)
        entry = ProgramFile(program=program, inherited=programs.inherited(os.environ), tag=self.tag)
        with _told(f"record {program.name}"):
            private_folder(program.folder)
            programs.write(entry, self.home)
        self._bring_in(program.name)

    def start(self, name: str) -> None:
        """Start it, if it is not running. Raises NotFound for a program never put."""
        self._known(name)
        self.ensure()
        self._bring_in(name)

    def restart(self, name: str) -> None:
        """Stop it if it runs, then start it. Raises NotFound for a program never put."""
        self._known(name)
        self.ensure()
        self._take_out(name)
        self._bring_in(name)

    def drop(self, name: str) -> None:
        """Stop the program and forget it; nothing happens when there is none. Its log stays."""
        if self.alive():
            self._take_out(name)
        if programs.read(name, self.home):
            self._sweep(GRACE, name)
        with self._lock, _told(f"forget {name}"):
            programs.remove(name, self.home)
            if self.home.exists():
                self._write_configuration()

    def shutdown(self) -> list[int]:
        """Stop everything and the daemon, then end what is left; returns the pids that had to be swept.

        The programs stay known: the next `ensure` starts them all again.
        """
        entries = programs.read_all(self.home).values()
        grace = max((e.program.stop_seconds for e in entries), default=0) + GRACE
        if self.alive():
            self._until_launched()
            self._daemon.end(grace + 5.0)
            grace = GRACE
        swept = self._sweep(grace)
        for path in (self._daemon.socket, self.home / "supervisord.pid"):
            path.unlink(missing_ok=True)
        return swept

    def survivors(self) -> list[int]:
        """Pids that still carry the tag."""
        from matcha.host.sweep import tagged  # noqa: PLC0415 - psutil: `status` must not pay for it

        return sorted(process.pid for process in tagged(self.tag))

    def _sweep(self, grace: float, program: str = "") -> list[int]:
        from matcha.host.sweep import sweep  # noqa: PLC0415 - as above

        return sweep(self.tag, grace, program)

    def _known(self, name: str) -> None:
        entries = programs.read_all(self.home)
        if name not in entries:
            raise NotFound(
                f'There is no program "{name}".',
                details=suggest(name, entries),
                resolution="matcha provision",
            )

    def _bring_in(self, name: str) -> None:
        """Have supervisord know the program as its file says, and run it."""
        with _told(f"start {name}"):
            with self._lock:
                self._write_configuration()
                self._daemon.call("reloadConfig")
                self._try("addProcessGroup", name, unless=(rpc.ALREADY_ADDED,))
            # A program that cannot be spawned shows it in its status, like one that dies later.
            self._try("startProcess", name, False, unless=(rpc.ALREADY_STARTED, rpc.SPAWN_ERROR))

    def _take_out(self, name: str) -> None:
        """Have supervisord stop and forget the program.

        Asks again and again, since the health listener may start it in between.
        """
        entry = programs.read(name, self.home)
        deadline = time.monotonic() + (entry.program.stop_seconds if entry else 0) + 20.0
        self._until_launched(name)
        with _told(f"stop {name}"):
            while time.monotonic() < deadline:
                self._try("stopProcess", name, False, unless=(rpc.NOT_RUNNING, rpc.BAD_NAME))
                if self._forgotten(name):
                    return
                time.sleep(POLL)
        raise SupervisorFailed(f"{name} does not stop.", resolution="matcha stop")

    def _until_launched(self, *names: str) -> None:
        """Wait a moment for programs (or all) that were spawned only now.

        Between fork and exec a child still has supervisord's own handler of SIGTERM: the signal would be
        lost, and the stop take all of the program's stop seconds.
        """
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            found = {name: info["pid"] for name, info in self._infos().items() if name in names or not names}
            if all(not pid or programs.launched(name, pid, self.home) for name, pid in found.items()):
                return
            time.sleep(POLL)

    def _forgotten(self, name: str) -> bool:
        """Whether supervisord does not know the program, or no longer does; False while it runs."""
        if self._try("removeProcessGroup", name, unless=(rpc.STILL_RUNNING, rpc.BAD_NAME)):
            return True
        return not self._try("getProcessInfo", name, unless=(rpc.BAD_NAME,))

    def _try(self, method: str, *params: str | bool, unless: tuple[int, ...]) -> bool:
        """Whether supervisord did it; False for the faults in `unless`, others are raised."""
        try:
            self._daemon.call(method, *params)
        except rpc.Fault as fault:
            if fault.code not in unless:
                raise
            return False
        return True

    def _write_configuration(self) -> None:
        entries = programs.read_all(self.home).values()
        for entry in entries:
            private_folder(entry.program.log.parent)  # supervisord refuses to start when one is missing
        text = programs.configuration(entries, self.home, settle=self._settle, retries=self._retries)
        write_private(self.home / "supervisord.conf", text.encode())

    def _infos(self) -> dict[str, dict[str, Any]]:
        """What supervisord says of each program; nothing when there is no daemon."""
        if not self._daemon.socket.exists():
            return {}
        try:
            infos = self._daemon.call("getAllProcessInfo")
        except (OSError, rpc.Fault):
            return {}
        return {info["name"]: info for info in infos if info["name"] != LISTENER}

    def _status(self, entry: ProgramFile, info: dict[str, Any] | None) -> ProgramStatus:
        program = entry.program
        if info is None:
            return ProgramStatus(name=program.name, condition="stopped", digest=program.digest)
        record = programs.restarts(entry, self.home)
        condition = _CONDITIONS.get(info["statename"], "failed")
        return ProgramStatus(
            name=program.name,
            condition=condition,
            pid=info["pid"],
            uptime=max(0.0, float(info["now"] - info["start"])) if info["pid"] else 0.0,
            restarts=record.count,
            digest=program.digest,
            detail=_reason(info, program) if condition in ("starting", "failed") else record.why,
        )


def _reason(info: dict[str, Any], program: Program) -> str:
    said = programs.last_line(program.log)
    return "; ".join(filter(None, [info["spawnerr"], said and f"its log ends: {said}"]))


@contextlib.contextmanager
def _told(doing: str) -> Iterator[None]:
    """Faults, lost connections and files that cannot be written as SupervisorFailed."""
    try:
        yield
    except (rpc.Fault, OSError) as error:
        raise SupervisorFailed(
            f"The supervisor failed to {doing}.", details=str(error), resolution="matcha start"
        ) from error
