"""The lock of a project's own code: under the serving environment's versions where that is possible."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from matcha import environments, lockfiles
from matcha.api import _workspace
from matcha.events import Event
from support.package_index import PackageIndex, wheel


@pytest.fixture
def said(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """Events, where the serving environment has a `tiny` that the index does not."""
    (tmp_path / "requirements.lock").write_text("tiny==0.1\n")
    monkeypatch.setattr(_workspace, "WORKSPACE", tmp_path)
    return []


def compiled(folder: Path, said: list[Event], *wanted: str, limits: tuple[str, ...] = ()) -> str:
    output = folder / "made.lock"
    _workspace._compile(wanted, limits, output, said.append)
    return output.read_text()


def test_what_fits_is_resolved_without_a_word(tmp_path: Path, said: list[Event]) -> None:
    assert "large==1.0" in compiled(tmp_path, said, "large")
    assert said == []


def test_what_does_not_fit_is_resolved_without_and_said(tmp_path: Path, said: list[Event]) -> None:
    assert "tiny==1.0" in compiled(tmp_path, said, "tiny")
    assert [(event.phase, event.message.splitlines()[0]) for event in said] == [
        ("note", _workspace._UNCONSTRAINED)
    ]


def test_what_does_not_exist_is_not_said_to_be_resolved(tmp_path: Path, said: list[Event]) -> None:
    with pytest.raises(environments.EnvironmentUnresolvable) as refused:
        compiled(tmp_path, said, "nothere")
    assert "nothere" in refused.value.details
    assert said == []


def test_constraints_hold_with_the_serving_versions_and_without(
    tmp_path: Path, said: list[Event], index: PackageIndex
) -> None:
    for wanted in ("large", "tiny"):
        with pytest.raises(environments.EnvironmentUnresolvable) as refused:
            compiled(tmp_path, said, wanted, limits=(f"{wanted}>=2",))
        assert f"{wanted}>=2" in refused.value.details


@pytest.mark.parametrize("option", ["--find-links", "-f"])
def test_packages_of_a_folder_are_found_again_when_they_are_installed(
    cache: Path, tmp_path: Path, said: list[Event], option: str
) -> None:
    folder = tmp_path / "my wheels"
    folder.mkdir()
    (folder / "homemade-1.0-py3-none-any.whl").write_bytes(wheel("homemade"))
    lock = tmp_path / "split.lock"
    locked, unlocked = lockfiles.split(compiled(tmp_path, said, f"{option} {folder.as_uri()}", "homemade"))
    lock.write_text(locked)
    env = environments.install(lock, ".".join(map(str, sys.version_info[:2])))
    assert list(env.glob("lib/python*/site-packages/homemade/inner.py"))
    assert unlocked == ""
