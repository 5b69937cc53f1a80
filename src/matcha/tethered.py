"""Runs a command that ends when its starter does: `python -I -S tethered.py FD COMMAND...`.

FD is the reading end of a pipe that nobody writes to. It ends with the last process that has the other end,
which is the starter, however that ended: then every process of this group is killed. Standard library alone,
and little of it: this runs before each command.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def main(rope: int, command: list[str]) -> int:
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)  # what is killed is this group, and nobody else's
    os.set_inheritable(rope, False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # for the command, which gets them too; its end is ours
    child = os.posix_spawnp(command[0], command, os.environ)
    threading.Thread(target=_watch, args=(rope,), daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def _watch(rope: int) -> None:
    os.read(rope, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    try:
        os._exit(main(int(sys.argv[1]), sys.argv[2:]))
    except OSError as problem:
        sys.stderr.write(f"{sys.argv[2]}: {problem.strerror} (os error {problem.errno})\n")
        sys.stderr.flush()
        os._exit(127)
