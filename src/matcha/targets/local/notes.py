"""What was made of each service and environment, as small files: `status` reads them instead of asking."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from matcha.host.files import write_changed
from matcha.targets.local.layout import Layout


class ServiceNote(msgspec.Struct, frozen=True, kw_only=True):
    """`description` is the service digest it was made from; `made` covers what its placeholders became."""

    name: str
    role: str
    description: str
    made: str
    health: str
    ports: dict[str, int]


class EnvironmentNote(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    digest: str
    path: str

    @property
    def python(self) -> Path:
        return Path(self.path) / "bin" / "python"


Note = TypeVar("Note", ServiceNote, EnvironmentNote)


class Notes:
    """Raises nothing for notes that are missing or damaged: what they describe is then made again."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def service(self, name: str) -> ServiceNote | None:
        return _read(self._layout.note("services", name), ServiceNote)

    def environment(self, name: str) -> EnvironmentNote | None:
        return _read(self._layout.note("environments", name), EnvironmentNote)

    def services(self) -> Mapping[str, ServiceNote]:
        found = (self.service(name) for name in self._names("services"))
        return {n.name: n for n in found if n}

    def environments(self) -> Mapping[str, EnvironmentNote]:
        found = (self.environment(name) for name in self._names("environments"))
        return {n.name: n for n in found if n}

    def keep(self, note: ServiceNote | EnvironmentNote) -> None:
        kind = "services" if isinstance(note, ServiceNote) else "environments"
        write_changed(self._layout.note(kind, note.name), msgspec.json.encode(note))

    def drop_service(self, name: str) -> None:
        self._layout.note("services", name).unlink(missing_ok=True)

    def _names(self, kind: str) -> list[str]:
        return sorted(p.stem for p in (self._layout.notes / kind).glob("*.json"))


def _read(path: Path, kind: type[Note]) -> Note | None:
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(path.read_bytes(), type=kind)
    return None
