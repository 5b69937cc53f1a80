"""Where this user's own folders lie, and which of them is safe and short enough for a socket."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

import platformdirs

from matcha.errors import MatchaError
from matcha.host.files import is_private, private_folder

SOCKET_FOLDER_BYTES = 80  # a unix socket's path ends at 104 bytes on macOS, its name included


def user_data() -> Path:
    """The user's data folder of Matcha; never in that of a snap, whose terminals set XDG_DATA_HOME for
    themselves and to another folder with every update.
    """
    if "/snap/" in os.environ.get("XDG_DATA_HOME", ""):
        return Path.home() / ".local" / "share" / "matcha"
    return platformdirs.user_data_path("matcha", appauthor=False)


def runtime_folders(data: Path, owner: str, user: int, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Folders for the socket of the supervisor of `owner`, best first.

    The data folder comes first because it is private and stays; the others serve where its path is too
    long or its disk knows no sockets. XDG_RUNTIME_DIR is emptied when the user logs out, so it is last.
    """
    name = hashlib.sha256(owner.encode()).hexdigest()[:8]
    found = [data / "run" / name]
    found += [Path(t) / f"matcha-{user}" / name for t in (environ.get("TMPDIR", "/tmp"), "/tmp")]  # noqa: S108 - ownership is checked
    found += [Path(environ["XDG_RUNTIME_DIR"]) / "matcha" / name] if "XDG_RUNTIME_DIR" in environ else []
    return tuple(dict.fromkeys(p for p in found if len(bytes(p)) <= SOCKET_FOLDER_BYTES))


def first_usable(folders: Iterable[Path]) -> Path:
    """Raises MatchaError with the reason against each where none is safe."""
    reasons: list[str] = []
    for folder in dict.fromkeys(folders):
        if not (reason := unusable(folder)):
            return folder
        reasons.append(f"{folder}: {reason}")
    raise MatchaError(
        "No folder is safe for the supervisor's socket.",
        details="\n".join(reasons),
        resolution="matcha doctor",
    )


def unusable(folder: Path) -> str:
    """Why `folder` cannot hold the supervisor's socket; makes it where it is absent."""
    try:
        private_folder(folder)
        for path in (folder.parent, folder):
            if path.is_symlink() or not is_private(path):
                return f"{path} is not yours alone"
        _bind(folder / "try")
    except OSError as error:
        return str(error)
    return ""


def _bind(path: Path) -> None:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    path.unlink()
