"""The first process of a training job on another machine: the user's command, then what Matcha does after it.

Runs in the job's own environment, by the standard library alone:

    python -m matcha.worker [--after MODULE] -- COMMAND...

What runs after it gets `--experiment-since` and the moment of the start in Unix milliseconds, which is that
of MATCHA_JOB_BEGAN for a job that goes on with what others began; whatever comes of it, the exit code is the
command's, as a shell has it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

AFTER_SECONDS = 600.0
BEGAN, SAMPLER = "MATCHA_JOB_BEGAN", "MATCHA_JOB_SAMPLER"  # variables of the command: as `after` takes them
QUIET = ("done", "logged", "exists", "no-dataset")
NOT_FOUND, NOT_EXECUTABLE = 127, 126
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str]) -> int:
    before, command = _split(list(arguments))
    began = int(os.environ.get(BEGAN) or time.time() * 1000)
    told: list[int] = []
    sampler = before[1] if before[:1] == ["--after"] else ""
    os.environ.update({BEGAN: str(began), SAMPLER: sampler})
    code = run(command, told)
    if not told:  # who is told to end has seconds left, and what the command came to stands
        for number in ENDING:
            signal.signal(number, lambda *_: sys.exit(code))
        after(sampler, began)
    return code


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def run(command: Sequence[str], told: list[int]) -> int:
    """To its end, with signals passed on, which `told` gets; 128 + N where signal N ended it."""
    if shutil.which(command[0]) is None and not os.path.isfile(command[0]):
        _say(f'there is no command "{command[0]}" in the job\'s environment')
        return NOT_FOUND
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        _say(f"{command[0]} cannot be run: {error.strerror}")
        return NOT_EXECUTABLE

    def pass_on(number: int, _: object) -> None:
        told.append(number)
        child.send_signal(number)

    for number in ENDING:
        signal.signal(number, pass_on)
    code = child.wait()
    return code if code >= 0 else 128 - code


def after(module: str, began: int) -> None:
    """Never raises; says only what its user can do something about. Nothing for an empty `module`."""
    if not module:
        return
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, "--experiment-since", str(began)],
            capture_output=True,
            text=True,
            timeout=AFTER_SECONDS,
            check=False,
        )
        said = json.loads(done.stdout.strip().rpartition("\n")[2])
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return
    for each in (said, *said.get("runs", ())):
        if each.get("status") not in QUIET and each.get("message"):
            _say(str(each["message"]))


def _say(text: str) -> None:
    print(f"matcha: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
