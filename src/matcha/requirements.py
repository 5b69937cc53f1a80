"""What a project's own code requires, as lines that mean the same wherever they are resolved.

A path in a requirements file is relative to that file. Everything raises BadInput, which names the file and
the line, for what cannot be understood.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from matcha.errors import AGAIN, BadInput, unreadable

_OPTION = re.compile(r"(--[a-z-]+|-[a-z])[\s=]*(.*)")
_NAMED = re.compile(r"([A-Za-z0-9][\w.-]*\s*(?:\[[^\]]*\])?\s*@\s*)(.*)")
_ARCHIVES = (".whl", ".zip", ".tar.gz")
_FOLDERS = ("-f", "--find-links", "-i", "--index-url", "--extra-index-url")  # or addresses
_PASSED = frozenset(
    [
        *(*_FOLDERS, "--no-index", "--no-binary", "--only-binary", "--prefer-binary", "--require-hashes"),
        *("--pre", "--trusted-host", "--use-feature"),
    ]
)
_CONSTRAINTS = ("-c", "--constraint")
_DESCRIPTIONS = ("pyproject.toml", "setup.py", "setup.cfg", "requirements*.txt")
_NOT_SOURCE = re.compile(r"\..*|__pycache__|build|dist|venv|node_modules|mlruns|.*\.egg-info")


class Required(NamedTuple):
    """Requirement lines; `trees` are the source folders among them, by absolute path.

    `limits` are constraints: lines that say which versions a package may have, and ask for none. `shelves`
    are the folders of packages that they may come from.
    """

    lines: tuple[str, ...] = ()
    trees: tuple[Path, ...] = ()
    limits: tuple[str, ...] = ()
    shelves: tuple[Path, ...] = ()

    def and_(self, more: Required) -> Required:
        lines, trees, limits = self.lines + more.lines, self.trees + more.trees, self.limits + more.limits
        return Required(lines, trees, limits, self.shelves + more.shelves)


class _Place(NamedTuple):
    """Where a requirement stands, and from where its relative paths lead."""

    what: str
    folder: Path

    def refuse(self, why: str, details: str = "") -> BadInput:
        return BadInput(f"{self.what}: {why}", details=details, resolution=f"Correct {self.what}, {AGAIN}")


def of_project(root: Path) -> Required:
    """pyproject.toml's [project] dependencies; where it has none, requirements.txt."""
    pyproject, listed = root / "pyproject.toml", root / "requirements.txt"
    if _is_there(pyproject) and (found := _pyproject(pyproject)).lines:
        return found
    return of_file(listed) if _is_there(listed) else Required()


def _is_there(path: Path) -> bool:
    """Raises BadInput for a folder or a pipe: passed over, what the project needs would go missing unsaid."""
    if path.exists() and not path.is_file():
        raise BadInput(f"{path.name} is no file.", details=str(path), resolution=f"Make it one, {AGAIN}")
    return path.exists() or path.is_symlink()


def of_file(path: Path, above: tuple[Path, ...] = ()) -> Required:
    """Of a requirements file, with the files that it includes; `above` are those that include it."""
    found = Required()
    for number, line in _lines(path):
        place = _Place(f"{path.name}:{number}", path.parent)
        found = found.and_(_line(line, place, (*above, path.resolve())))
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that say something, by number: without comments, continued ones joined."""
    kept, began = "", 0
    for number, raw in enumerate([*_text(path).splitlines(), ""], 1):
        began = began if kept else number
        kept += re.sub(r"(^|\s+)#.*", "", raw)
        if kept.endswith("\\"):
            kept = kept[:-1] + " "
            continue
        if kept.strip():
            yield began, kept.strip()
        kept = ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path.name} is not UTF-8 text.",
            details=str(error),
            resolution=f"Save {path.name} as UTF-8, {AGAIN}",
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _line(line: str, place: _Place, above: tuple[Path, ...]) -> Required:
    option = _OPTION.fullmatch(line)
    if option is None:
        return _requirement(line, place)
    name, value = option.groups()
    if name in ("-e", "--editable"):
        return _requirement(value, place)
    if name in ("-r", "--requirement"):
        return _included(place, value, above)
    if name in _CONSTRAINTS:
        return Required(limits=_limits(place, value, above))
    if name not in _PASSED:
        raise place.refuse(f"unknown option {name}")
    if name in _FOLDERS and "${" not in value and ("://" not in value or value.startswith("file:")):
        shelf = _shelf(value, place)
        return Required((f"{name} {shelf.as_uri()}",), shelves=(shelf,))
    return Required((line,))


def _limits(place: _Place, name: str, above: tuple[Path, ...]) -> tuple[str, ...]:
    """Of a constraints file. One without a package's name limits nothing, and uv refuses it."""
    found = _included(place, name, above)
    if unnamed := next((line for line in found.lines if re.match(r"[a-z+]+:", line)), ""):
        raise place.refuse(f"a constraint in {name} does not begin with a package's name: {unnamed}")
    return found.lines + found.limits


def _included(place: _Place, name: str, above: tuple[Path, ...]) -> Required:
    path = place.folder / name
    if path.resolve() in above:
        raise place.refuse(f"{name} includes itself")
    if not path.is_file():
        raise place.refuse(f"there is no file {name}")
    return of_file(path, above)


def _requirement(text: str, place: _Place) -> Required:
    """One requirement, its path made absolute."""
    named = _NAMED.fullmatch(text)
    name, wanted = named.groups() if named else ("", text)
    path = re.split(r"\s*;|\s*\[|\s+--", wanted, maxsplit=1)[0]
    if _is_path(path):
        found = _existing(path, place)
        line = f"{name}{found.as_uri()}{wanted[len(path) :]}"
        return Required((line,), (found,) if found.is_dir() else ())
    if "${" not in text and "://" not in wanted:
        _check(text, place)
    return Required((text,))


def _is_path(text: str) -> bool:
    if text.startswith(("file:", ".", "/")):
        return True
    return "://" not in text and ("/" in text or text.endswith(_ARCHIVES))


def _shelf(text: str, place: _Place) -> Path:
    """The folder of packages."""
    path = _absolute(text, place)
    if not text or not path.is_dir():
        raise place.refuse(f"there is no folder {text}".rstrip(), f"It would be {path}." if text else "")
    return path


def _absolute(text: str, place: _Place) -> Path:
    plain = unquote(re.sub(r"file:(//(localhost)?(?=/))?", "", text)) if text.startswith("file:") else text
    return (place.folder / plain).resolve()


def _existing(text: str, place: _Place) -> Path:
    path = _absolute(text, place)
    if not path.exists():
        raise place.refuse(f"there is no file or folder {text}", f"It would be {path}.")
    if path.is_dir() and not any((path / name).is_file() for name in ("pyproject.toml", "setup.py")):
        raise place.refuse(f"{text} is no Python project: it has neither pyproject.toml nor setup.py")
    return path


def _check(text: str, place: _Place) -> None:
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415 - 13 ms

    try:
        Requirement(re.split(r"\s+--", text, maxsplit=1)[0])
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise place.refuse(f"not a requirement: {text}", f"{reason[:1].upper()}{reason[1:]}.") from error


def _pyproject(path: Path) -> Required:
    listed = _table(path).get("dependencies", [])
    place = _Place(f"{path.name}: project.dependencies", path.parent)
    if not isinstance(listed, list) or not all(isinstance(line, str) for line in listed):
        raise place.refuse("expected a list of requirements", f"Found {listed!r}.")
    return functools.reduce(Required.and_, (_requirement(line, place) for line in listed), Required())


def _table(path: Path) -> Mapping[str, Any]:
    """The [project] table of a pyproject.toml; empty where it has none."""
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415
    else:
        import tomli as tomllib  # noqa: PLC0415

    try:
        table = tomllib.loads(_text(path)).get("project", {})
    except ValueError as error:
        raise BadInput(
            f"{path.name} is not valid TOML: {error}", resolution=f"Correct {path.name}, {AGAIN}"
        ) from error
    if not isinstance(table, dict):
        raise _Place(f"{path.name}: project", path.parent).refuse(f"expected a table, found {table!r}")
    return table


def described(own: Required) -> Iterator[bytes]:
    """What changes when other versions may be had, or other files of the same."""
    yield from map(str.encode, own.lines)
    yield from map(metadata, own.trees)
    for shelf in own.shelves:
        for package in sorted(path for path in shelf.iterdir() if path.name.endswith(_ARCHIVES)):
            seen = package.stat()
            yield f"{package}\0{seen.st_size} {seen.st_mtime_ns}".encode()


def metadata(tree: Path) -> bytes:
    """What a source folder says it requires in turn."""
    files = sorted(file for name in _DESCRIPTIONS for file in tree.glob(name))
    return b"\0".join(file.read_bytes() for file in files)


def fingerprint(tree: Path) -> bytes:
    """Changes when a file of a source folder does; by size and time, so that large ones cost nothing."""
    found = hashlib.sha256()
    for folder, names, files in os.walk(tree):
        names[:] = sorted(name for name in names if not _NOT_SOURCE.fullmatch(name))
        for path in (Path(folder, name) for name in sorted(files)):
            with contextlib.suppress(OSError):
                seen = path.stat()
                found.update(f"{path}\0{seen.st_size} {seen.st_mtime_ns}\0".encode())
    return found.digest()
