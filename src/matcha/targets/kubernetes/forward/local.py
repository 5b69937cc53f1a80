"""The client's end of a connection: whether anybody is still there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from pathlib import Path

_FIRST_LOOK, _LONGEST_PAUSE = 0.02, 2.0  # seconds
_MISSING = 3  # looks in a row that do not find the other end: one may miss it while the table changes
_TABLE = Path("/proc/net/tcp")
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


def prepare(link: socket.socket) -> None:
    """Where there is no table of sockets, has the system ask a silent peer whether it is there; that it is
    not shows in SO_ERROR.
    """
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if _TABLE.exists():
        return
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            with contextlib.suppress(OSError):
                link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def reset_on_close(link: socket.socket) -> None:
    """So that the peer cannot take what it got for all there is."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def closed(link: socket.socket) -> None:
    """Returns when the peer, which sends no more, does not read any more either.

    Both look the same here: an end of its data. On Linux the table of sockets tells at once whether a process
    still holds the other end; elsewhere the system's own question does, a minute after its close.
    """
    pause, missing = _FIRST_LOOK, 0
    while missing < _MISSING and not link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
        held = _holders(link)
        if held == ["0"]:
            return
        missing = 0 if held or held is None else missing + 1


def _holders(link: socket.socket) -> list[str] | None:
    """Linux: inodes of the other end of this loopback connection; "0" where no process holds it. None where
    that cannot be seen.
    """
    try:
        mine, theirs = _hex(link.getsockname()), _hex(link.getpeername())
        table = _TABLE.read_text().splitlines()[1:]
    except OSError:
        return None
    rows = (line.split() for line in table)
    return [row[9] for row in rows if row[1] == theirs and row[2] == mine]


def _hex(address: tuple[str, int]) -> str:
    """As /proc/net/tcp writes it: the address in the machine's own byte order."""
    number = int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)
    return f"{number:08X}:{address[1]:04X}"
