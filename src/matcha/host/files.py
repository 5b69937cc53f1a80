"""Files that other users must not read and that a kill must not leave half-written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matcha.errors import MatchaError

IGNORE = ".gitignore"


class NoRoom(MatchaError):
    """The disk is full, or the user's share of it."""


def private_folder(path: Path) -> Path:
    """Makes `path`, and what is missing above it, readable by this user alone; returns it."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    return path


def hide_from_git(folder: Path) -> None:
    """Git takes nothing that is in it."""
    ignore = folder / IGNORE
    if not ignore.exists():
        write_private(ignore, b"*\n")


def remove_hidden(folder: Path) -> None:
    """Removes a folder that holds nothing but what hides it."""
    if folder.is_dir() and [path.name for path in folder.iterdir()] == [IGNORE]:
        (folder / IGNORE).unlink(missing_ok=True)
        remove_empty(folder)


def nearest(folder: Path) -> Path:
    """It, or what there is of its parents."""
    return next(p for p in (folder, *folder.parents) if p.exists())


def refused(folder: Path, size: int = 0) -> OSError | None:
    """Why no file of so many bytes can be made there; None where it can."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".matcha-") as file:
            file.write(bytes(size))
            file.flush()
    except OSError as error:
        return error
    return None


def write_private(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Replaces `path` at once, mode 0600. `durable` also survives the machine losing power.

    Raises NoRoom where the disk is full, MatchaError where it may not be written to; the old file then stays.
    """
    try:
        private_folder(path.parent)
        _replace(path, data, durable)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> MatchaError:
    """NoRoom where the disk is full."""
    kind = NoRoom if error.errno in (errno.ENOSPC, errno.EDQUOT) else MatchaError
    return kind(
        f"{path} cannot be written.", details=error.strerror or str(error), resolution="matcha doctor"
    )


def _replace(path: Path, data: bytes, durable: bool) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def drop_half_written(path: Path) -> None:
    """What killed writers of `path` left beside it. Only for files whose writers hold a guard, under it."""
    for half in path.parent.glob(f".{path.name}.*"):
        half.unlink(missing_ok=True)


def write_changed(path: Path, data: bytes) -> bool:
    """`write_private` where the content differs; returns whether it did."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return False
    write_private(path, data)
    return True


def sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def guarded(path: Path, wait: float = 20.0) -> Iterator[Path]:
    """Holds an exclusive lock on `path` among this machine's processes and threads, for moments only.

    The holder may unlink the file as the last thing it does: whoever waited for it then takes a new one.
    Raises MatchaError after `wait` seconds.
    """
    deadline = time.monotonic() + wait
    handle = _take(path, deadline)
    try:
        yield path
    finally:
        os.close(handle)


def _take(path: Path, deadline: float) -> int:
    while True:
        handle = _open(path)
        if handle is not None:
            if _locked(handle) and _is_same(handle, path):
                return handle
            os.close(handle)
        if time.monotonic() > deadline:
            raise MatchaError(f"{path} stays locked by another process.", resolution="matcha doctor")
        time.sleep(0.005)


def _open(path: Path) -> int | None:
    """None where its folder was removed this moment."""
    try:
        private_folder(path.parent)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as error:
        if path.parent.is_symlink():  # to nothing
            raise unwritable(path, error) from error
        return None
    except OSError as error:
        raise unwritable(path, error) from error


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def remove_tree(path: Path, tries: int = 5) -> None:
    """Removes a file or folder whatever its modes; a link is removed, never what it points to.

    What a process writes into it at this moment is waited for a few times, then raises OSError.
    """
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
        return
    for left in reversed(range(tries)):
        try:
            _open_folders(path)
            shutil.rmtree(path)
            return
        except FileNotFoundError:
            if not path.exists():
                return
        except OSError:
            if not left:
                raise
        time.sleep(0.1)


def _open_folders(path: Path) -> None:
    """Makes read-only folders (as a data cache has) writable, so that what they hold can be removed."""
    for folder, names, _ in os.walk(path):
        for name in names:
            inner = Path(folder) / name
            if not inner.is_symlink() and not os.access(inner, os.W_OK | os.X_OK):
                inner.chmod(0o700)


def remove_empty(*folders: Path) -> None:
    """Removes those folders that hold nothing, in the order given."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def size_of(path: Path) -> int:
    """Bytes of the files below `path`; what vanishes meanwhile counts nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(folder) / name).lstat().st_size
    return total


def is_private(path: Path) -> bool:
    """Whether `path` is this user's and closed to all others."""
    found = path.lstat()
    return found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077
