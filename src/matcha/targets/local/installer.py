"""Where environments come from."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from matcha.events import Emit, Event
from matcha.service import Environment

if TYPE_CHECKING:
    from matcha.environments import InstallProgress

INDEX_SECONDS = 15.0
SWEEP_SECONDS = 10.0
Report = Callable[[str, "float | None"], None]


class Installer(Protocol):
    """Makes environments. Tests give a target one that has nothing to install."""

    def is_whole(self, environment: Environment, folder: Path) -> bool:
        """Whether the environment that was once made in `folder` can still be used. Cheap."""

    def damage(self, folder: Path) -> str:
        """What of the packages in an environment is missing or changed; empty where nothing is."""

    def install(self, environment: Environment, report: Report) -> Path:
        """Its folder. Idempotent; safe to be killed, and to run in several processes at once."""

    def notes(self, missing: Sequence[Environment]) -> Sequence[str]:
        """What installing these takes, as lines. Raises MatchaError where it cannot work."""

    def finish(self, folders: Iterable[Path]) -> None:
        """Start work that makes later starts faster; returns at once."""

    def sweep(self) -> None:
        """Remove what killed installs left half-made, once the last of their processes has ended."""

    def check(self, environment: Environment) -> None:
        """Raises MatchaError where no Python fits the environment."""

    def check_index(self) -> None:
        """Raises MatchaError within seconds where packages cannot be had."""

    def cache(self) -> Path:
        """The folder that environments are made in."""

    def repair(self, environment: Environment, report: Report) -> Path:
        """`install` anew, whatever is there; its folder."""


class UvInstaller:
    """`matcha.environments`: locked, verified, shared by all of the user's projects."""

    def is_whole(self, environment: Environment, folder: Path) -> bool:
        from matcha import environments  # noqa: PLC0415 - slow to import, and `status` never asks

        return (folder / environments.MARKER).exists() and (folder / "bin" / "python").exists()

    def damage(self, folder: Path) -> str:
        from matcha import damage  # noqa: PLC0415

        found = damage.find(folder)
        more = f", and {len(found) - 1} more packages are broken" if len(found) > 1 else ""
        return f"{found[0]}{more}" if found else ""

    def install(self, environment: Environment, report: Report) -> Path:
        from matcha import environments  # noqa: PLC0415

        return _made(environments.install, environment, report)

    def notes(self, missing: Sequence[Environment]) -> Sequence[str]:
        from matcha import environments  # noqa: PLC0415

        wanted = [(e.lock, environments.python_for(e.python)) for e in missing]
        absent = [(lock, python) for lock, python in wanted if not environments.is_installed(lock, python)]
        if not absent:
            return ()
        size = environments.download_size(absent)
        what = "1 environment" if len(absent) == 1 else f"{len(absent)} environments"
        return (f"{what} to install, {'download size unknown' if size is None else _download(size)}.",)

    def finish(self, folders: Iterable[Path]) -> None:
        from matcha import environments  # noqa: PLC0415

        for folder in folders:
            environments.compile_rest(folder)

    def sweep(self) -> None:
        from matcha import environments  # noqa: PLC0415

        environments.sweep(SWEEP_SECONDS)

    def check(self, environment: Environment) -> None:
        from matcha import environments  # noqa: PLC0415

        environments.python_for(environment.python)

    def check_index(self) -> None:
        """By asking uv for one small package: only uv knows all that an index, proxy and certificate need."""
        from matcha import uvtool  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as folder:
            wanted = Path(folder, "wanted.in")
            wanted.write_text("pip\n")
            question = ["pip", "compile", "--quiet", "--no-cache", str(wanted)]
            uvtool.run(question, cwd=Path(folder), limit=INDEX_SECONDS)

    def cache(self) -> Path:
        from matcha import environments  # noqa: PLC0415

        return environments.cache_root()

    def repair(self, environment: Environment, report: Report) -> Path:
        from matcha import environments  # noqa: PLC0415

        return _made(environments.reinstall, environment, report)


def _made(make: Callable[..., Path], environment: Environment, report: Report) -> Path:
    """By `environments.install` or `reinstall`, with what is told of either."""
    from matcha import environments  # noqa: PLC0415

    def tell(progress: InstallProgress) -> None:
        report(*_told(progress))

    python = environments.python_for(environment.python)
    warm = environments.warm_modules(environment.warm)
    return make(environment.lock, python, warm=warm, report=tell)


class Telling:
    """Progress of an install as events; what was said already is not said again."""

    def __init__(self, environment: str, emit: Emit) -> None:
        self._subject = f"environment/{environment}"
        self._emit = emit
        self._said = ""

    def __call__(self, message: str, fraction: float | None) -> None:
        if message != self._said:
            self._said = message
            self._emit(Event(self._subject, "progress", message, fraction=fraction))


def _download(size: int) -> str:
    return f"about {max(1, round(size / 1e6))} MB to download" if size else "nothing to download"


def _told(progress: InstallProgress) -> tuple[str, float | None]:
    """The line and the fraction of one report."""
    return str(progress), min(1.0, progress.done / progress.total) if progress.total > 0 else None
