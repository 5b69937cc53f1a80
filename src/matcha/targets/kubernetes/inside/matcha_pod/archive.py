"""Folders as compressed tar files, with their size and digest in the metadata of the object.

gzip at its lowest level: of the serving environment (934 MB) it makes 308 MB, and reading it costs 3 seconds
of CPU. Its highest levels and xz save a tenth to a third of the size for two to three times the CPU.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import shutil
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from .ending import Code, Failed, Progress, disk_failure, megabytes, say
from .multipart import upload
from .s3 import Download, Place, Store

CHUNK = 1 << 20
# Where tarfile knows filters, it must not fall back to one of its own: `_plain` is stricter.
_FILTER: Any = {"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}


class Hashed:
    """Counts and digests what is read through it."""

    def __init__(self, source: Any, progress: Progress) -> None:
        self._source = source
        self._progress = progress
        self._digest = hashlib.sha256()
        self._size = 0

    def read(self, size: int) -> bytes:
        content: bytes = self._source.read(size)
        self._digest.update(content)
        self._size += len(content)
        self._progress(self._size)
        return content

    def to_end(self) -> dict[str, str]:
        """Reads the rest; size and digest of all of it, as metadata have them."""
        while self.read(CHUNK):
            pass
        return {"size": str(self._size), "sha256": self._digest.hexdigest()}


# -- making


def pack(folder: Path, file: Path, left_out: Callable[[str], bool] = lambda _: False) -> None:
    """`left_out` gets paths relative to the folder. Links are followed: an archive holds none."""

    def portable(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.name = member.name.removeprefix("./")
        member.mtime = int(member.mtime)  # a fraction would cost a header of its own
        return None if left_out(member.name) else _plain(member)

    try:
        with (
            gzip.open(file, "wb", compresslevel=1) as packed,
            tarfile.open(fileobj=packed, mode="w|", dereference=True) as tar,
        ):
            tar.add(folder, arcname=".", filter=portable)
    except OSError as error:
        raise disk_failure(error, str(file.parent)) from error


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without owner and special modes. Raises Failed unless it is a file or folder that stays inside."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not (member.isreg() or member.isdir()):
        message = f"An archive may hold files and folders inside of it only, not {member.name!r}."
        raise Failed(message, Code.DAMAGED)
    member.mode = 0o755 if member.isdir() or member.mode & stat.S_IXUSR else 0o644
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def put(store: Store, place: Place, file: Path, metadata: Mapping[str, str]) -> None:
    size = file.stat().st_size
    with file.open("rb") as source:
        sums = Hashed(source, Progress("reading", size)).to_end()
    upload(store, place, chunks(file, Progress(f"uploading {place}", size)), {**metadata, **sums})
    say(f"uploaded {place}, {megabytes(size)}")


def chunks(file: Path, progress: Progress) -> Iterator[bytes]:
    with file.open("rb") as source:
        while chunk := source.read(CHUNK):
            yield chunk
            progress(source.tell())


# -- using


def is_whole(store: Store, place: Place) -> bool:
    """Reads all of it. False where it is missing or damaged."""
    try:
        with contextlib.closing(Download(store, place)) as source:
            _compare(place, source, Hashed(source, Progress("checking", source.head.size)))
    except Failed as error:
        if error.code not in {Code.MISSING, Code.DAMAGED}:
            raise
        if error.code == Code.DAMAGED:
            say(str(error))
        return False
    return True


def lay_out(
    store: Store, place: Place, folder: Path, check: Callable[[Mapping[str, str]], None] = lambda _: None
) -> None:
    """Unpack into a folder that is there; `check` gets the metadata first. On failure it is left empty."""
    try:
        with contextlib.closing(Download(store, place)) as source:
            check(source.head.metadata)
            hashed = Hashed(source, Progress("unpacking", source.head.size))
            with tarfile.open(fileobj=hashed, mode="r|gz") as tar:  # type: ignore[call-overload]
                for member in tar:
                    tar.extract(_plain(member), folder, **_FILTER)
            _compare(place, source, hashed)
    except BaseException as error:
        clear(folder)
        if isinstance(error, (tarfile.TarError, EOFError, zlib.error)):
            raise Failed(f"{place} is damaged: {error}.", Code.DAMAGED) from error
        if isinstance(error, OSError):
            raise disk_failure(error, str(folder)) from error
        raise


def _compare(place: Place, source: Download, hashed: Hashed) -> None:
    said = source.head.metadata
    for name, value in hashed.to_end().items():
        if said.get(name) != value:
            message = f"{place} is damaged: its {name} is {value}, and it was uploaded with {said.get(name)}."
            raise Failed(message, Code.DAMAGED)


def clear(folder: Path) -> None:
    """Empty a folder that stays, as the mount of a volume does. Raises Failed where it cannot."""
    try:
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise disk_failure(error, str(folder)) from error


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder that goes with the command."""
    folder = parent / "matcha-work"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_failure(error, str(parent)) from error
    clear(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
