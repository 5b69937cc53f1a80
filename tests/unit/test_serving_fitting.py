"""Which models fit the serving environment, and what those that do not get instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from matcha.component import ModelVersion
from matcha.components.mlserver import fitting
from matcha.errors import MatchaError
from matcha.pythons import python_for
from matcha.service import Environment

LOCK = """\
# made for these tests
aiohttp==3.14.5 \\
    --hash=sha256:00
mlflow==3.17.2 \\
    --hash=sha256:00
numpy==2.2.6 ; python_full_version < '3.11' \\
    --hash=sha256:00
numpy==2.4.6 ; python_full_version >= '3.11' \\
    --hash=sha256:00
scikit-learn==1.9.1 \\
    --hash=sha256:00
Ruamel.Yaml==0.18.6 \\
    --hash=sha256:00
uvloop==0.21.0 ; sys_platform == 'amiga' \\
    --hash=sha256:00
"""
SERVER = "# comment\nmlserver==1.7.1\nmlflow==3.17.2\nscikit-learn\nuvloop<0.22  # why\n"
PYTHON = ">=3.10,<3.13"


@pytest.fixture
def serving(tmp_path: Path) -> Environment:
    lock = tmp_path / "requirements.lock"
    lock.write_text(LOCK)
    (tmp_path / "requirements.in").write_text(SERVER)
    return Environment(name="mlserver", lock=lock, python=PYTHON)


def own(
    serving: Environment, *lines: str, python: str = "", flavors: tuple[str, ...] = ()
) -> tuple[str, ...]:
    model = ModelVersion(uri="models:/m/1", requirements=lines, python=python, flavors=flavors)
    return fitting.own_environment(model, serving, serving.lock.with_name("requirements.in"))


def test_pins_hold_for_one_python() -> None:
    old, new = fitting.pins(LOCK, "3.10"), fitting.pins(LOCK, "3.12")
    assert (old["numpy"], new["numpy"]) == ("2.2.6", "2.4.6")
    assert old["ruamel-yaml"] == "0.18.6"
    assert "uvloop" not in old


@pytest.mark.parametrize(
    ("line", "fits"),
    [
        ("scikit-learn==1.9.1", True),
        ("scikit_learn==1.9.0", True),
        ("scikit-learn==1.8.1", False),
        ("scikit-learn==2.0.0", False),
        ("scikit-learn", True),
        ("scikit-learn>=1.5", True),
        ("scikit-learn>=2", False),
        ("scikit-learn~=1.9.0", True),
        ("scikit-learn==1.9.*", True),
        ("scikit-learn==1.8.*", False),
        ("scikit-learn>=1.5,<1.8", False),
        ("scikit-learn!=1.9.1", False),
        ("numpy==2.4.1", True),
        ("numpy==2.1.0", True),
        ("numpy==2.5.0", False),
        ("numpy==1.26.4", False),
        ("mlflow==2.9.0", True),
        ("mlflow[extras]>=99", True),
        ("psutil==7.2.2", True),
        ("rich==15.0.0", True),
        ("pytest==9.2.0", True),
        ("torch==2.9.0", False),
        ("torch==2.9.0 ; python_version < '3'", True),
        ("ruamel.yaml==0.18.1", True),
        ("ruamel.yaml==0.17.1", False),
        ("# a comment", True),
        ("scikit-learn==1.9.1  # a comment", True),
        ("mine @ https://example.org/mine.whl", False),
        ("git+https://example.org/mine.git", False),
        ("./mine", False),
        ("-e .", False),
    ],
)
def test_a_requirement_fits(line: str, fits: bool) -> None:
    assert fitting.fits(line, fitting.pins(LOCK, "3.11"), "3.11") is fits


def test_a_model_that_fits_needs_nothing(serving: Environment) -> None:
    python = f"{python_for(PYTHON)}.7"
    assert own(serving, "mlflow==3.17.2", "scikit-learn==1.9.1", "", python=python) == ()
    assert own(serving) == ()


def test_a_model_that_does_not_brings_its_own_packages_and_the_server(serving: Environment) -> None:
    lines = own(serving, "mlflow==2.9.0", "scikit-learn==1.5.2  # old", "aiohttp==3.9.0", "torch", "")
    assert lines == (
        "scikit-learn==1.5.2",
        "aiohttp==3.9.0",
        "torch",
        "mlserver==1.7.1",
        "mlflow==3.17.2",
        "uvloop<0.22",
    )


def test_another_python_is_another_environment(serving: Environment) -> None:
    other = next(p for p in ("3.10", "3.11", "3.12") if p != python_for(PYTHON))
    assert "scikit-learn==1.9.1" in own(serving, "scikit-learn==1.9.1", python=f"{other}.4")


def test_a_python_that_cannot_serve(serving: Environment) -> None:
    """Packages decide where a flavor stands behind the model; functions load only where they were made."""
    assert own(serving, "scikit-learn==1.9.1", python="3.13.2", flavors=("python_function", "sklearn")) == ()
    with pytest.raises(MatchaError, match=r"3\.13\.2") as raised:
        own(serving, python="3.13.2", flavors=("python_function",))
    assert "matcha run" in raised.value.resolution
