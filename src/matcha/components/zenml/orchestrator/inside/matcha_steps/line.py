"""The line to the `matcha run --pipeline` that started this process: JSON, a line each way.

A connection is a step's: where it ends, that step's job is ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from typing import Any

ADDRESS = "MATCHA_STEPS"  # variable: a socket in a folder that is the user's alone


class Refused(RuntimeError):
    """What was asked for is not done, and why."""


class Line:
    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(address)
        self._said = self._socket.makefile("r", encoding="utf-8")

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._said.close()
        self._socket.close()

    def say(self, message: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def answers(self) -> Iterator[dict[str, Any]]:
        """To the end. Raises Refused for a refusal, ConnectionError where nobody is there any more."""
        for text in self._said:
            found: dict[str, Any] = json.loads(text)
            if found.get("refused"):
                raise Refused(found["refused"])
            yield found
            if found.get("over"):
                return
        raise ConnectionError("the matcha run that leads this pipeline has ended")

    def hang_up(self) -> None:
        """Have the job ended; what becomes of it is still answered. From any thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)


def dial() -> Line:
    """Raises Refused in a process that `matcha run --pipeline` did not start."""
    address = os.environ.get(ADDRESS)
    if not address:
        raise Refused("This ZenML stack runs steps as jobs. Start it with: matcha run --pipeline -- ...")
    return Line(address)


def ask(message: dict[str, Any]) -> dict[str, Any]:
    """The last answer."""
    with dial() as line:
        line.say(message)
        return list(line.answers())[-1]
