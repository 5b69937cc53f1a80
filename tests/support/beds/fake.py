"""The fake target needs nothing, and starts nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matcha.planning import Wanted
from matcha.service import Environment, Service
from matcha.state import State
from matcha.target import Target
from matcha.targets.fake import FakeTarget
from support.plain import stored, web
from support.serving import free_port

CONTRACT = "tests/contract/test_targets.py"
COMPONENTS = "tests/contract/test_components_on_targets.py"


class FakeBed:
    answers = False

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self.project.mkdir()
        lock = folder / "plain.lock"
        lock.write_text("")
        self.environment = Environment(name="plain", lock=lock)

    def target(self) -> Target:
        return FakeTarget(self.project)

    def service(self, name: str = "web", **changes: Any) -> Service:
        return stored(web(name, **changes))

    def tell(self, state: State, name: str) -> dict[str, Any]:
        raise AssertionError("nothing runs here")

    def spoil(self, raw: bytes) -> None:
        (self.project / ".matcha" / "state.json").write_bytes(raw)

    def left(self) -> Sequence[str]:
        return [str(path) for path in self.project.rglob("*")]


class FakePlace:
    """Its services are on a port that nobody listens on."""

    target = "fake"
    answers = False

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self.project.mkdir()
        self.settings = f"targets:\n  fake: {{port: {free_port()}}}\n"

    def mark(self, wanted: Wanted) -> None:
        for area in wanted.stores:
            self._area(area).mkdir(parents=True)
            (self._area(area) / "mark").touch()

    def unmarked(self, wanted: Wanted) -> Sequence[str]:
        return [area for area in wanted.stores if not (self._area(area) / "mark").exists()]

    def _area(self, name: str) -> Path:
        return self.project / ".matcha" / "store" / name

    def kill(self, service: str) -> None:
        """What the target would see."""
        path = self.project / ".matcha" / "fake.json"
        facts = json.loads(path.read_text())
        facts[f"service/{service}"]["seen"]["condition"] = "failed"
        path.write_text(json.dumps(facts))

    def left(self) -> Sequence[str]:
        return [str(p) for p in self.project.rglob("*") if p.name != "matcha.yaml"]


@contextmanager
def place(folder: Path) -> Iterator[FakePlace]:
    yield FakePlace(folder)


@contextmanager
def bed(folder: Path) -> Iterator[FakeBed]:
    yield FakeBed(folder)
