"""Locks of the environments that models bring: in the project, and with the stack where others use it too."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from matcha.errors import MatchaError
from matcha.state import State
from matcha.target import Sharing, Target


def lock(target: Target, state: State, digest: str) -> Path:
    """Raises MatchaError where neither this machine nor the stack has it."""
    path = _path(target, state, digest)
    if not path.exists() and not _fetched(target, digest, path):
        raise MatchaError(
            "The packages of a deployed model are not known on this machine.",
            details=f"Their lock is missing: {path}",
            resolution="matcha deploy, again for the models that need packages of their own (matcha models)",
        )
    return path


def made(target: Target, state: State, digest: str, make: Callable[[Path], None]) -> None:
    """Have it, by `make` where neither this machine nor the stack has it, for everybody who uses the stack.

    Under the stack's lock.
    """
    path = _path(target, state, digest)
    if not path.exists() and not _fetched(target, digest, path):
        make(path)
    if isinstance(target, Sharing) and target.shared(_name(digest)) is None:
        target.share(_name(digest), path.read_text(encoding="utf-8"))


def drop_unused(target: Target, state: State) -> None:
    """Those that were for everybody, and that no deployment needs any more, go. Under the stack's lock.

    Where that fails, the next one does it, or `provision`.
    """
    if not isinstance(target, Sharing):
        return
    needed = {_name(d.environment) for d in state.deployments.values() if d.environment}
    with contextlib.suppress(MatchaError):
        for name in target.shares():
            if name.startswith(_name("")) and name not in needed:
                target.unshare(name)


def _path(target: Target, state: State, digest: str) -> Path:
    return target.access(state).folder("locks") / f"{digest}.lock"


def _name(digest: str) -> str:
    return f"lock-{digest}"


def _fetched(target: Target, digest: str, path: Path) -> bool:
    text = target.shared(_name(digest)) if isinstance(target, Sharing) else None
    if text is None:
        return False
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)
    return True
