"""Which Python a cluster's models run on: the image's, not this machine's."""

from __future__ import annotations

from pathlib import Path

import pytest

from matcha.api import _models
from matcha.api._project import Project, open_project
from matcha.component import ModelVersion
from matcha.errors import BadInput, WrongPython
from matcha.events import silent
from matcha.pythons import python_for
from matcha.service import Environment
from matcha.state import State
from matcha.targets.kubernetes import base
from matcha.targets.kubernetes.options import KubernetesOptions

FUNCTION = ("python_function",)
HERE = python_for(">=3.10,<3.13")
OTHER = next(version for version in ("3.11", "3.12") if version != HERE)  # than this machine would take


@pytest.mark.parametrize(
    ("image", "python"),
    [
        ("python:3.12-slim-bookworm", "3.12"),
        ("registry.example.com:5000/hub/python:3.11", "3.11"),
        ("python:3.10.4-slim@sha256:0123", "3.10"),
        ("team/base:py3.11-cuda12.4", "3.11"),
        ("team/base:1.3.11", ""),
        ("team/happy-3.12:7", ""),
        ("team/base:py3.1-cuda", ""),
        ("registry.corp/team/python:2024.11", ""),
        ("corp/python:1.4", ""),
        ("ghcr.io/team/py:2.0-slim", ""),
        ("python:3", ""),
        ("python@sha256:3.11", ""),
    ],
)
def test_an_image_s_name_may_say_its_python(image: str, python: str) -> None:
    assert base.known(KubernetesOptions(image=image)) == python


def test_where_no_name_says_it_the_options_do() -> None:
    silent_name = KubernetesOptions(image="team/base:7")
    with pytest.raises(BadInput, match="team/base:7") as refused:
        base.python(silent_name)
    assert "targets.kubernetes.python" in refused.value.resolution
    assert base.python(KubernetesOptions(image="team/base:7", python="3.11")) == "3.11"


def test_an_environment_for_another_python_is_not_built() -> None:
    options = KubernetesOptions(image="hub/python:3.12-slim")
    lock = Path(__file__)
    base.check(options, Environment(name="mlserver", lock=lock, python=">=3.10,<3.13"))
    base.check(KubernetesOptions(image="team/base:7"), Environment(name="m", lock=lock, python="==3.11.*"))
    with pytest.raises(BadInput, match=r"model-1 needs Python ==3\.11\.\*, not 3\.12") as refused:
        base.check(options, Environment(name="model-1", lock=lock, python="==3.11.*"))
    assert "hub/python:3.11-slim" in refused.value.resolution


def team(folder: Path) -> Project:
    """A stack whose pods run on a Python that this machine does not prefer."""
    (folder / "matcha.yaml").write_text(
        f"target: kubernetes\ntargets: {{kubernetes: {{image: 'python:{OTHER}-slim'}}}}\n"
    )
    return open_project(folder, None)


def needs(project: Project, python: str, *lines: str, flavors: tuple[str, ...] = FUNCTION) -> tuple[str, str]:
    state = State(stack_id="s", stack="default", target="kubernetes", matcha_version="0")
    model = ModelVersion(uri="models:/m/1", requirements=lines, python=python, flavors=flavors)
    return _models.own_environment(project, state, model, silent)


def test_a_model_of_the_image_s_python_fits(tmp_path: Path) -> None:
    assert needs(team(tmp_path), f"{OTHER}.3") == ("", "")


def test_functions_of_this_machine_s_python_are_refused(tmp_path: Path) -> None:
    """They would be loaded by the image's, and fail or crash there."""
    with pytest.raises(
        WrongPython, match=f"made with Python {HERE}.3, and .* served with {OTHER}"
    ) as refused:
        needs(team(tmp_path), f"{HERE}.3")
    assert f"python:{HERE}-slim" in refused.value.resolution
    assert "matcha provision" in refused.value.resolution


def test_other_models_fit_by_their_packages(tmp_path: Path) -> None:
    assert needs(team(tmp_path), f"{HERE}.3", "numpy", flavors=("python_function", "sklearn")) == ("", "")
