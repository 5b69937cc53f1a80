"""Every component of the registry on every target that needs no installing: `support.beds` says where."""

from pathlib import Path

import pytest

from matcha.component import Component
from support import beds
from support.component_contract import COMPONENTS, live_through

HERE = beds.tested_in("COMPONENTS", Path(__file__))


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("cls", COMPONENTS, ids=lambda c: f"{c.role}-{c.flavor}")
def test_a_component_lives_through_everything(tmp_path: Path, target: str, cls: type[Component]) -> None:
    with beds.module(target).place(tmp_path) as place:
        live_through(place, cls)
