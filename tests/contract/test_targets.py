"""What every target has to keep. Targets come from the registry; `support.beds` says where each is tested."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from matcha import registry
from support import beds, sweep
from support.component_contract import COMPONENTS
from support.target_contract import Bed, TargetContract

HERE = beds.tested_in("CONTRACT", Path(__file__))


@pytest.fixture(params=HERE)
def bed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bed]:
    with beds.module(request.param).bed(tmp_path) as made:
        yield made


class TestTarget(TargetContract):
    @pytest.fixture
    def bed(self, bed: Bed) -> Bed:
        return bed


@pytest.fixture(scope="module")
def collected() -> list[str]:
    """What runs by default of the files that `beds` names: a sample, where the whole takes long."""
    files = {
        getattr(beds.module(t), kind) for t in registry.target_names() for kind in ("CONTRACT", "COMPONENTS")
    }
    return sweep.collected(*sorted(files))


def run_on(target: str, kind: str, collected: list[str]) -> list[str]:
    """Of a file that tests several targets, the tests that bear the name of this one."""
    file = getattr(beds.module(target), kind)
    shared = [t for t in registry.target_names() if getattr(beds.module(t), kind) == file]
    mine = [test for test in collected if test.startswith(f"{file}::")]
    return mine if shared == [target] else [t for t in mine if re.search(rf"[\[-]{target}[\]-]", t)]


@pytest.mark.parametrize("target", registry.target_names())
def test_every_target_is_held_to_its_contract(target: str, collected: list[str]) -> None:
    tests = run_on(target, "CONTRACT", collected)
    names = {test.partition("[")[0].rpartition("::")[2] for test in tests}
    assert any(hasattr(TargetContract, name) for name in names), tests


@pytest.mark.parametrize("target", registry.target_names())
def test_a_component_lives_on_every_target(target: str, collected: list[str]) -> None:
    tests = run_on(target, "COMPONENTS", collected)
    assert any(f"{cls.role}-{cls.flavor}" in test for cls in COMPONENTS for test in tests), tests
