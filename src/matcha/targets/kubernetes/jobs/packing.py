"""A project's code as one compressed archive, the same for the same files."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from matcha.errors import BadInput, MatchaError
from matcha.targets.kubernetes.jobs.ignoring import kept

LIMIT = 100 * 2**20  # bytes of the project's files: code, and not data
NAMED = 5  # files that an error names
CHUNK = 1 << 20
# Of folders that go along: bytecode is made there, and locks and examples are of use here alone.
OMITTED = frozenset({"__pycache__", "_examples"})
LOCK = ".lock"


class Packed(NamedTuple):
    """`files` and `size` (bytes) are of the project, uncompressed; `left` are links to what is not there, or
    left out itself.
    """

    file: Path
    digest: str
    files: int
    size: int
    left: tuple[str, ...]

    @property
    def packed(self) -> int:
        return self.file.stat().st_size


class _Member(NamedTuple):
    name: str
    path: Path
    size: int


def pack(project: Path, beside: Mapping[str, Path], to: Path, *, limit: int = LIMIT) -> Packed:
    """`beside`: folders that go along, by their names in the archive.

    Raises BadInput for files above the limit together, naming the largest, and for a link that leads out of
    the project; MatchaError for a file that cannot be read.
    """
    members, left = _checked(project, limit)
    size = sum(member.size for member in members)
    more = [member for name, folder in sorted(beside.items()) for member in _of_folder(name, folder)]
    digest = _write([*members, *more], to)
    return Packed(to, digest, len(members), size, tuple(left))


def check(project: Path) -> None:
    """Raises what `pack` would, but for what is found while files are read."""
    _checked(project, LIMIT)


def _checked(project: Path, limit: int) -> tuple[list[_Member], list[str]]:
    members, left = _of_project(project)
    size = sum(member.size for member in members)
    if size > limit:
        raise _too_large(members, size, limit)
    return members, left


def _of_project(project: Path) -> tuple[list[_Member], list[str]]:
    root = project.resolve()
    members: list[_Member] = []
    left: list[str] = []
    try:
        found = dict.fromkeys(kept(root))
        for path in found:
            name = path.relative_to(root).as_posix()
            if not path.is_symlink():
                members.append(_Member(name, path, path.stat().st_size))
                continue
            behind = list(_behind(root, path, name, found))
            members += behind
            if not behind:
                left.append(name)
    except OSError as error:
        raise _unreadable(error) from error
    return members, left


def _behind(
    root: Path, link: Path, name: str, found: Mapping[Path, None], within: Sequence[Path] = ()
) -> Iterator[_Member]:
    """What a link stands for, as far as that goes along itself (`found`); nothing where it is not there.
    `within`: what links around it stand for.
    """
    try:
        there = link.resolve(strict=True)
    except FileNotFoundError:
        return
    except (OSError, RuntimeError) as error:  # which one says that a link stands for itself is the Python's
        if isinstance(error, OSError) and error.errno != errno.ELOOP:
            raise
        raise _endless(name) from None
    if not there.is_relative_to(root):
        raise BadInput(
            f"{name} is a link that leads out of the project, to {there}.",
            details="A job finds there what the project holds, and nothing else of this machine.",
            resolution=f"Copy what it stands for into the project, or put {name} into .gitignore",
        )
    if link.is_relative_to(there) or there in within:
        raise _endless(name)
    if there.is_file():
        if there in found:
            yield _Member(name, there, there.stat().st_size)
        return
    for path in found:
        if not path.is_relative_to(there):
            continue
        inside = f"{name}/{path.relative_to(there).as_posix()}"
        if not path.is_symlink():
            yield _Member(inside, path, path.stat().st_size)
        else:
            yield from _behind(root, path, inside, found, (*within, there))


def _endless(name: str) -> BadInput:
    return BadInput(
        f"{name} is a link to something that it is a part of itself.",
        details="It has no end: what it stands for would go along in itself.",
        resolution=f"Remove it, or put {name} into .gitignore",
    )


def _of_folder(name: str, folder: Path) -> Iterator[_Member]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != LOCK and OMITTED.isdisjoint(path.relative_to(folder).parts):
            yield _Member(f"{name}/{path.relative_to(folder).as_posix()}", path, path.stat().st_size)


def _write(members: Iterable[_Member], to: Path) -> str:
    """Without times and owners: the same files make the same archive. Its digest."""
    try:
        with (
            to.open("wb") as raw,
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as squeezed,
            tarfile.open(fileobj=squeezed, mode="w|", format=tarfile.GNU_FORMAT) as tar,
        ):
            for member in members:
                with member.path.open("rb") as source:
                    tar.addfile(_header(member, source), source)
    except OSError as error:
        raise _unreadable(error) from error
    found = hashlib.sha256()
    with to.open("rb") as made:
        while chunk := made.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _header(member: _Member, source: IO[bytes]) -> tarfile.TarInfo:
    assert ".." not in PurePosixPath(member.name).parts and not member.name.startswith("/")
    seen = os.fstat(source.fileno())
    found = tarfile.TarInfo(member.name)
    found.size = seen.st_size
    found.mode = 0o755 if seen.st_mode & stat.S_IXUSR else 0o644
    return found


def _too_large(members: list[_Member], size: int, limit: int) -> BadInput:
    largest = sorted(members, key=lambda m: m.size, reverse=True)[:NAMED]
    return BadInput(
        f"The project's files take {mebibytes(size)}, and at most {mebibytes(limit)} go with a job.",
        details="\n".join(["The largest:", *(f"  {mebibytes(m.size):>10}  {m.name}" for m in largest)]),
        resolution="Put data into .gitignore, and let the job fetch it: dvc pull",
    )


def _unreadable(error: OSError) -> MatchaError:
    return MatchaError(
        f"The project cannot be packed: {error.strerror or error}.",
        details=str(error.filename or ""),
        resolution="Make it readable, or put it into .gitignore, then run the same again.",
    )


def mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 / 10 else f"{size / 2**10:.1f} KiB"
