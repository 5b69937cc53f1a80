"""Where the contracts of targets are tested: a module for each target of the registry, by its name.

A module says in `CONTRACT` and `COMPONENTS` which test file runs the contract of targets
(`support.target_contract`) and the life of every component (`support.component_contract`) on it. What it
names there brings the fixtures that the target needs, such as a cluster. A target that needs none names
`tests/contract/test_targets.py` and `tests/contract/test_components_on_targets.py`, and its module has

    bed(folder)     a context manager of a `support.target_contract.Bed`
    place(folder)   a context manager of a `support.component_contract.Place`
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from matcha import registry

TESTS = Path(__file__).resolve().parents[2]


def module(target: str) -> ModuleType:
    """Fails, saying what to add, for a target that says nowhere where it is tested."""
    name = f"support.beds.{target}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise AssertionError(f"Say in tests/support/beds/{target}.py where {target} is tested.") from error


def tested_in(kind: str, file: Path) -> list[str]:
    """Targets whose `CONTRACT` or `COMPONENTS`, which is `kind`, is the test file `file`."""
    here = str(file.resolve().relative_to(TESTS.parent))
    return [name for name in registry.target_names() if getattr(module(name), kind) == here]
