"""Every component of the registry on the local target: the real tool, with what it requires, and no more."""

from pathlib import Path

import pytest

from matcha.component import Component
from support.beds import local
from support.component_contract import COMPONENTS, live_through


@pytest.mark.parametrize("cls", COMPONENTS, ids=lambda c: f"{c.role}-{c.flavor}")
def test_a_component_lives_through_everything(tmp_path: Path, cls: type[Component]) -> None:
    with local.place(tmp_path) as place:
        live_through(place, cls)
