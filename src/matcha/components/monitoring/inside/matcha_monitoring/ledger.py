"""What must outlive the process besides captures and windows: counts, failures, why there was no verdict."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .layout import read_json, write_atomic

_SENDERS = 256


class Ledger:
    """Written whenever it changes, atomically. A file that cannot be read starts again at zero.

    `is_new`: there was no file, so that `go_on` may still tell what an earlier one counted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_new = not path.exists()
        kept = read_json(path) or {}
        self.dropped: int = _whole(kept.get("dropped"))
        self.unreadable: int = _whole(kept.get("unreadable"))
        self.failures: dict[str, dict[str, Any]] = dict(kept.get("failures") or {})
        self.remarks: dict[str, dict[str, Any]] = dict(kept.get("remarks") or {})
        self._senders: dict[str, int] = {str(k): _whole(v) for k, v in (kept.get("senders") or {}).items()}

    def go_on(self, before: Mapping[str, Any]) -> None:
        """After the loss of the file: `before` is what stood in it."""
        self.is_new = False
        self.dropped += _whole(before.get("dropped"))
        self.unreadable += _whole(before.get("unreadable"))
        self.failures = {**(before.get("failures") or {}), **self.failures}
        self.remarks = {**(before.get("remarks") or {}), **self.remarks}
        self._senders = {
            **{str(k): _whole(v) for k, v in (before.get("senders") or {}).items()},
            **self._senders,
        }
        self._write()

    def drops(self, sender: str, total: int) -> None:
        """`total` is cumulative for the sender; a smaller number than before is a sender started anew.

        Senders that lost nothing are not remembered: every replica is one, and every start of it.
        """
        before = self._senders.pop(sender, 0)
        if total:
            self._senders[sender] = total
        if total == before:
            return
        self.dropped += total - before if total > before else total
        while len(self._senders) > _SENDERS:
            del self._senders[next(iter(self._senders))]
        self._write()

    def lost(self, lines: int) -> None:
        """Lines that could not be read."""
        if lines:
            self.unreadable += lines
            self._write()

    def failed(self, name: str, message: str) -> None:
        """The newest failure of a deployment's window; "" is taking in."""
        self.failures[name] = {"at": time.time(), "message": message[:500]}
        self._write()

    def worked(self, name: str, remark: dict[str, Any] | None = None) -> None:
        """`remark`: status and messages of a window without a verdict, which is written nowhere else."""
        gone = [self.failures.pop(key, None) for key in (name, "")]
        if any(gone) or self.remarks.get(name) != remark:
            self.remarks.pop(name, None)
            self.remarks |= {name: remark} if remark else {}
            self._write()

    def _write(self) -> None:
        kept = {
            "dropped": self.dropped,
            "unreadable": self.unreadable,
            "failures": self.failures,
            "remarks": self.remarks,
            "senders": self._senders,
        }
        # A full disk must not cost a capture its acknowledgement; the counts stay in memory.
        with contextlib.suppress(OSError):
            write_atomic(self._path, json.dumps(kept).encode())


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
