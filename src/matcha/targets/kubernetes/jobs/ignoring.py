"""Which files of a project its .gitignore files leave out, as git has it; git itself need not be there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pathspec import GitIgnoreSpec

IGNORES = ".gitignore"
ALWAYS = frozenset({".git", ".hg", ".svn", ".matcha", "__pycache__", ".ipynb_checkpoints", "node_modules"})
VIRTUAL = "pyvenv.cfg"  # in the folder of a virtual environment
_EXCLUDES = Path(".git", "info", "exclude")


class _Rules(NamedTuple):
    """Of one file: they hold for what is below `base`."""

    base: Path
    lines: tuple[str, ...]
    spec: GitIgnoreSpec

    def says(self, path: Path, *, folder: bool) -> bool | None:
        """Whether it is left out; None where nothing is said of it."""
        found = self.spec.check_file(path.relative_to(self.base).as_posix() + ("/" if folder else ""))
        if found.include is None or found.index is None:
            return None
        inside = self.lines[found.index].rstrip().endswith("/**")  # what is in it, and not the folder itself
        return None if folder and inside else found.include


def kept(root: Path) -> Iterator[Path]:
    """Absolute paths of files and links below `root`, in order. Links are not followed."""
    yield from _below(root, _above(root))


def _below(folder: Path, rules: tuple[_Rules, ...]) -> Iterator[Path]:
    rules = (*rules, *_of(folder / IGNORES, folder))
    for path in sorted(folder.iterdir()):
        is_folder = path.is_dir() and not path.is_symlink()
        if path.name in ALWAYS or (is_folder and (path / VIRTUAL).exists()):
            continue
        if _is_left_out(path, rules, folder=is_folder):
            continue
        if is_folder:
            yield from _below(path, rules)
        elif path.is_file() or path.is_symlink():
            yield path


def _is_left_out(path: Path, rules: tuple[_Rules, ...], *, folder: bool) -> bool:
    """The file nearest to it has the last word."""
    said = (each.says(path, folder=folder) for each in reversed(rules))
    return next((word for word in said if word is not None), False)


def _above(root: Path) -> tuple[_Rules, ...]:
    """Of the repository that the project is a folder of, down to the project's own folder."""
    tops = [folder for folder in (root, *root.parents) if (folder / ".git").exists()]
    if not tops:
        return ()
    top = tops[0]
    between = [folder for folder in reversed(root.parents) if folder.is_relative_to(top)]
    found = [_of(top / _EXCLUDES, top), *(_of(folder / IGNORES, folder) for folder in between)]
    return tuple(rules for each in found for rules in each)


def _of(file: Path, base: Path) -> tuple[_Rules, ...]:
    """None where there is no such file, or it cannot be read."""
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace") if file.is_file() else ""
    except OSError:
        return ()
    lines = tuple(line if _is_pattern(line) else "" for line in text.splitlines())
    return (_Rules(base, lines, GitIgnoreSpec.from_lines(lines)),)


def _is_pattern(line: str) -> bool:
    """To git one that is none, such as a backslash at the end, matches nothing."""
    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True
