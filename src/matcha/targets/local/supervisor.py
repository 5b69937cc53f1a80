"""One supervisord a stack, as its client sees it."""

from __future__ import annotations

from pathlib import Path

from matcha.targets.local.programs import Program, ProgramStatus


class Supervisor:
    """Runs programs that outlive the caller.

    `home` (made, 0700) holds everything written: configuration, program files, the daemon's log. `runtime` is
    a short 0700 folder for the socket. `tag` is unique to the stack and stands in every child's environment as
    MATCHA_STACK_TAG. Calls that change something need the stack's lock; within one process they may come from
    several threads at once. Every call ends within a deadline and raises MatchaError.
    """

    def __init__(self, home: Path, runtime: Path, tag: str) -> None:
        self.home, self.runtime, self.tag = home, runtime, tag

    def alive(self) -> bool:
        """Whether the daemon answers. Cheap."""
        raise NotImplementedError

    def ensure(self) -> None:
        """Have the daemon up; before a start, end what an earlier one left behind."""
        raise NotImplementedError

    def programs(self) -> dict[str, ProgramStatus]:
        """Every program by name. Without a daemon all are `stopped`. Safe at any time, takes no lock."""
        raise NotImplementedError

    def put(self, program: Program) -> None:
        """Add `program` and start it, or replace and restart the one of that name; no other is touched.

        Returns once the process is spawned, not once it is healthy. It comes back after a restart of the
        daemon. Starts the daemon if need be.
        """
        raise NotImplementedError

    def start(self, name: str) -> None:
        """Start it, if it is not running. Raises NotFound for a program never put."""
        raise NotImplementedError

    def restart(self, name: str) -> None:
        """Stop it if it runs, then start it. Raises NotFound for a program never put."""
        raise NotImplementedError

    def drop(self, name: str) -> None:
        """Stop the program and forget it; nothing happens when there is none. Its log stays."""
        raise NotImplementedError

    def shutdown(self) -> list[int]:
        """Stop everything and the daemon, then end what is left; returns the pids that had to be swept.

        The programs stay known: the next `ensure` starts them all again.
        """
        raise NotImplementedError

    def survivors(self) -> list[int]:
        """Pids that still carry the tag."""
        raise NotImplementedError
