"""Secrets for a process that runs the code of others: not in its environment.

A variable that is deleted still stands in /proc/self/environ, for whatever the process loads to read. So a
launcher hands secrets over in a pipe, as a JSON object; MATCHA_SECRETS_FD names the reading end. Where a
target can only set variables, as for a pod, the process starts again without them.

Runs in a component's own environment, where nothing of Matcha is installed. Standard library alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

DESCRIPTOR = "MATCHA_SECRETS_FD"


def take(names: Sequence[str]) -> dict[str, str]:
    """The secrets by variable, those of `names` that were given. Call it before anything that takes time.

    Does not return where they stand in the environment: this process begins anew then, with the same pid.
    """
    if number := os.environ.pop(DESCRIPTOR, ""):
        with os.fdopen(int(number)) as pipe:
            return dict(json.load(pipe))
    given = {name: os.environ.pop(name) for name in names if name in os.environ}
    if given:
        environ = {**os.environ, DESCRIPTOR: str(_pipe(given))}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)  # noqa: S606
    return {}


def _pipe(secrets: dict[str, str]) -> int:
    """A descriptor to read them from; they fit into what a pipe holds."""
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    with os.fdopen(writing, "w") as pipe:
        json.dump(secrets, pipe)
    return reading
