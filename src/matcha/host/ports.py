"""Which port each service listens on: stable across restarts, and never another stack's.

A book for all stacks of the user (`ports.json`) holds what is claimed, also by stacks that are stopped.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from matcha.errors import BadInput, MatchaError, suggest
from matcha.host.files import drop_half_written, guarded, write_private
from matcha.service import Service

HOST = "127.0.0.1"
_NEIGHBOURS = 40  # tried above a preferred port before one is taken from the system's own range


class Wish(msgspec.Struct, frozen=True):
    """A port that is wanted. `key` is `service/port`; `recorded` is the number it has (0: none)."""

    key: str
    preferred: int
    recorded: int = 0


def refuse_unknown(where: str, chosen: Iterable[str], services: Iterable[Service]) -> None:
    """Raises BadInput for a key of the option `where` that is neither `service` nor `service/port`."""
    known = {name for s in services for name in (s.name, *(f"{s.name}/{p.name}" for p in s.ports))}
    for key in chosen:
        if key not in known:
            raise BadInput(
                f"{where} names no service and no port of this stack: {key}",
                details=suggest(key, known),
                resolution="Change it in matcha.yaml.",
            )


class PortBook:
    """The claims of all the user's stacks, in the file `path`.

    `is_alive` says whether a stack still exists: claims of others are dropped.
    """

    def __init__(self, path: Path, is_alive: Callable[[str], bool]) -> None:
        self._path = path
        self._guard = path.with_suffix(".lock")
        self._is_alive = is_alive

    def claim(self, stack: str, wishes: Iterable[Wish], is_ours: Callable[[int], bool]) -> dict[str, int]:
        """A port for each wish, by key; claims of `stack` that are not wished for are given up.

        `is_ours` says whether the stack itself listens on a port that is not free. Raises MatchaError when
        the machine has no free port.
        """
        wishes = list(wishes)
        with guarded(self._guard):
            others = {p: s for p, s in self._read().items() if s != stack and self._is_alive(s)}
            chosen = _choose(wishes, set(others), is_ours)
            self._write(others | dict.fromkeys(chosen.values(), stack))
        return chosen

    def held(self, stack: str) -> tuple[int, ...]:
        """The ports that `stack` has claimed."""
        return tuple(p for p, s in self._read().items() if s == stack)

    def drop(self, stack: str, ports: Iterable[int] | None = None) -> None:
        """Give up those ports of `stack`, or all."""
        if not self._path.exists():
            return
        gone = None if ports is None else set(ports)
        with guarded(self._guard):
            kept = {
                p: s for p, s in self._read().items() if s != stack or (gone is not None and p not in gone)
            }
            self._write(kept)

    def _read(self) -> dict[int, str]:
        with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(self._path.read_bytes(), type=dict[int, str])
        return {}

    def _write(self, claims: Mapping[int, str]) -> None:
        """Under the guard. Without claims no file is left."""
        if claims:
            write_private(self._path, msgspec.json.encode(dict(sorted(claims.items()))))
        else:
            self._path.unlink(missing_ok=True)
            drop_half_written(self._path)
            self._guard.unlink(missing_ok=True)


def _choose(wishes: list[Wish], taken: set[int], is_ours: Callable[[int], bool]) -> dict[str, int]:
    """Recorded numbers first, so that a new service cannot take the port of one that exists."""
    chosen: dict[str, int] = {}
    for wish in wishes:
        if (
            wish.recorded
            and wish.recorded not in taken
            and (is_ours(wish.recorded) or is_free(wish.recorded))
        ):
            chosen[wish.key] = wish.recorded
            taken = taken | {wish.recorded}
    reserved = {w.preferred for w in wishes}
    for wish in wishes:
        if wish.key not in chosen:
            chosen[wish.key] = _new(wish.preferred, taken, reserved)
            taken = taken | {chosen[wish.key]}
    return chosen


def _new(preferred: int, taken: set[int], reserved: set[int]) -> int:
    """`preferred`, else a neighbour that no other service prefers, else any; 0 prefers none."""
    if not preferred:
        return _any(taken)
    near = (p for p in range(preferred + 1, preferred + 1 + _NEIGHBOURS) if p not in reserved)
    for port in (preferred, *near):
        if port not in taken and is_free(port):
            return port
    return _any(taken)


def _any(taken: set[int]) -> int:
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        if port not in taken and is_free(port):
            return port
    raise MatchaError("No free port was found on this machine.", resolution="matcha doctor")


def is_free(port: int) -> bool:
    """Whether a server could listen on the loopback port now.

    Binding alone would call a port free on macOS that another program serves on every interface, so a
    connection must be refused as well. SO_REUSEADDR lets a port through whose last connections still fade.
    """
    return 0 < port < 65536 and _bindable(port) and not _answers(port)


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((HOST, port)) != errno.ECONNREFUSED
