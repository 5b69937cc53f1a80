"""What every target has to keep. Targets come from the registry; `support.beds` says where each is tested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from matcha import registry
from support import beds
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


@pytest.mark.parametrize("target", registry.target_names())
@pytest.mark.parametrize(("kind", "what"), [("CONTRACT", "TargetContract"), ("COMPONENTS", "live_through")])
def test_every_target_is_tested_somewhere(target: str, kind: str, what: str) -> None:
    file = beds.TESTS.parent / getattr(beds.module(target), kind)
    assert what in file.read_text(), f"{file} does not test {target}"
