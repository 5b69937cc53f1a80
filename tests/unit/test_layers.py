"""The rules of who may import and call what, seen to fail: violations are planted in a copy of the source."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "matcha"
TOOLS = Path(sys.executable).parent
TOP = sorted(p.stem for p in SOURCE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists())
MODULES = [name for name in TOP if name != "__init__"]
OF_COMPONENTS = {
    "access",
    "component",
    "errors",
    "events",
    "inside",
    "plainhttp",
    "pythons",
    "service",
    "sqlite",
}
NOT_OF_TARGETS = {"api", "cli", "components", "engine", "inference", "planning", "registry", "spec", "views"}
TERMINAL = {"cli", "views"}
OF_VIEWS = {"access", "component", "errors", "events", "planning", "state", "views"}
SDKS = ("azure.identity", "kubernetes", "lightkube")
BANNED = ("sys.exit(1)", "os._exit(1)", "os.getcwd()", "os.getcwdb()", "Path.cwd()", "print(1)")


def linted(folder: Path) -> str:
    """What import-linter says of `src` in `folder`, in one line."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    done = subprocess.run(
        [TOOLS / "lint-imports", "--no-cache", "--no-logo"],
        cwd=folder,
        env={"PYTHONPATH": str(folder / "src"), "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return " ".join(done.stdout.split())


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    copy = tmp_path / "src" / "matcha"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("*.lock", "__pycache__"))
    return copy


def imports(names: set[str]) -> str:
    return "".join(f"import matcha.{name}\n" for name in sorted(names))


def refusals(said: str, source: str) -> set[str]:
    return set(re.findall(rf"{re.escape(source)} is not allowed to import ([\w.]+):", said))


def test_a_component_that_imports_more_than_its_contract_is_refused(planted: Path) -> None:
    others = set(MODULES) - OF_COMPONENTS - {"components", "tether", "uvtool"}
    (planted / "components/dvc/bad.py").write_text(imports(others))
    assert refusals(linted(planted.parents[1]), "matcha.components") >= {f"matcha.{o}" for o in others}


def test_a_target_that_imports_planning_or_the_stack_file_is_refused(planted: Path) -> None:
    (planted / "targets/fake/bad.py").write_text(imports(NOT_OF_TARGETS))
    assert refusals(linted(planted.parents[1]), "matcha.targets") == {f"matcha.{n}" for n in NOT_OF_TARGETS}


def test_components_and_targets_that_import_their_like_are_refused(planted: Path) -> None:
    (planted / "components/dvc/bad.py").write_text("import matcha.components.zenml\n")
    (planted / "targets/fake/bad.py").write_text("import matcha.targets.local\n")
    said = linted(planted.parents[1])
    assert "Components never import each other BROKEN" in said
    assert "Targets never import each other BROKEN" in said


def test_code_that_runs_in_a_tools_environment_and_imports_matcha_is_refused(planted: Path) -> None:
    (planted / "components/mlflow/inside/bad.py").write_text("from matcha.errors import MatchaError\n")
    assert refusals(linted(planted.parents[1]), "matcha.components.mlflow.inside") == {"matcha.errors"}


def test_a_module_below_the_views_that_knows_the_terminal_is_refused(planted: Path) -> None:
    below = set(MODULES) - TERMINAL
    for name in below:
        place = planted / name / "__init__.py" if (planted / name).is_dir() else planted / f"{name}.py"
        place.write_text(place.read_text() + "\nimport rich\n")
    said = linted(planted.parents[1])
    assert {name for name in below if "rich" in refusals(said, f"matcha.{name}")} == below


def test_a_view_that_imports_more_than_what_it_shows_is_refused(planted: Path) -> None:
    others = set(MODULES) - OF_VIEWS
    (planted / "views/bad.py").write_text(imports(others))
    assert refusals(linted(planted.parents[1]), "matcha.views") == {f"matcha.{other}" for other in others}


def test_of_the_api_a_view_may_import_its_results_alone(planted: Path) -> None:
    every = {path.stem for path in (planted / "api").glob("*.py")} - {"__init__"}
    (planted / "views/bad.py").write_text(imports({f"api.{name}" for name in every}))
    said = linted(planted.parents[1])
    refused = re.findall(r"matcha\.views\.bad -> matcha\.api\.(\w+)", said)
    assert set(refused) == every - {"types"}


@pytest.mark.parametrize(
    "place", ["cli", "views", "api", "host", "components/dvc", "targets", "targets/local"]
)
def test_the_sdk_of_a_cloud_is_refused_outside_its_target(planted: Path, place: str) -> None:
    (planted / place / "bad.py").write_text("".join(f"import {sdk}\n" for sdk in SDKS))
    said = linted(planted.parents[1])
    module = f"matcha.{place.replace('/', '.')}.bad"
    assert {sdk for sdk in SDKS if f"{module} -> {sdk.partition('.')[0]} " in said} == set(SDKS)


def test_the_sdk_of_another_cloud_is_refused_in_a_target(planted: Path) -> None:
    (planted / "targets/kubernetes/bad.py").write_text("import azure.identity\nimport lightkube\n")
    assert refusals(linted(planted.parents[1]), "matcha") == {"azure"}


def test_every_module_has_a_layer() -> None:
    layers = (ROOT / "pyproject.toml").read_text().partition("layers = [")[2].partition("]")[0]
    assert set(re.findall(r"matcha\.(\w+)", layers)) == set(MODULES)


@pytest.mark.parametrize(
    "place", ["engine.py", "api/new.py", "targets/local/new.py", "components/dvc/new.py"]
)
@pytest.mark.parametrize("call", BANNED)
def test_what_only_the_command_line_may_do_is_refused_below_it(place: str, call: str) -> None:
    assert checked(place, call)


@pytest.mark.parametrize("call", BANNED)
def test_the_command_line_may_do_it(call: str) -> None:
    assert not checked("cli/new.py", call)


def checked(place: str, call: str) -> list[str]:
    """The rules, of the two that matter here, that ruff sees broken by `call` in a module at `place`."""
    done = subprocess.run(
        [
            TOOLS / "ruff",
            "check",
            "--no-cache",
            "--output-format=concise",
            "--stdin-filename",
            SOURCE / place,
        ],
        input=f"import os\nimport sys\nfrom pathlib import Path\n\n\ndef use() -> None:\n    {call}\n",
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return re.findall(r"\b(TID251|T201)\b", done.stdout)
