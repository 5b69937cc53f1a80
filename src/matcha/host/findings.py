"""What a target's doctor finds."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check. `fix` is what to do, or where `fixable` what `mend` does; `mended` says that it
    did. `checked` is False where nothing could be found out, which is `ok`.
    """

    check: str
    ok: bool
    message: str
    fix: str = ""
    mend: Callable[[], object] | None = None
    mended: str = ""
    fixed: bool = False
    checked: bool = True

    @property
    def fixable(self) -> bool:
        return self.mend is not None


def unseen(check: str, message: str) -> Finding:
    """Of what could not be found out, which is nothing wrong."""
    return Finding(check=check, ok=True, checked=False, message=message)
