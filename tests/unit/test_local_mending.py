"""Broken environments of a real stack: real installs by uv, from a package index on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from local_stack import SERVER, Bench, web

from matcha.errors import ComponentFailed
from matcha.service import Environment, Service
from matcha.targets.local.installer import UvInstaller
from support.package_index import PackageIndex

Make = Callable[..., Bench]


@pytest.fixture
def one(bench: Make, cache: Path, index: PackageIndex, tmp_path: Path) -> Bench:
    """A project whose environment holds `tiny`."""
    made = bench()
    made.installer = UvInstaller()
    made.environment = Environment(name="plain", lock=index.lock(tmp_path / "requirements.lock"))
    made.reopen()
    return made


def tiny(code: str = "import tiny") -> Service:
    return web(files={"server.py": f"{code}\n{SERVER}"})


def packages(cache: Path) -> Path:
    return next(cache.glob("environments/*/lib/python*/site-packages"))


def findings(one: Bench, *, fix: bool = False) -> list[tuple[bool, str]]:
    one.reopen()
    found = one.target.examine(one.store.read(), [one.environment], fix=fix)
    return [(f.ok, f.message) for f in found if f.check == "environments"]


def test_a_service_that_dies_of_a_broken_environment_gets_a_whole_one(one: Bench, cache: Path) -> None:
    state = one.provision(tiny())
    one.target.stop(one.events.append)
    (packages(cache) / "tiny").rename(cache / "tiny")
    one.reopen()
    assert one.provision(tiny()).ports == state.ports
    assert [s.condition for s in one.target.status(state)] == ["running"]
    assert (packages(cache) / "tiny" / "inner.py").exists()
    assert [e.message for e in one.events if e.phase == "note"] == [
        "The environment of plain is broken: tiny/__init__.py of tiny is missing. Installing it anew."
    ]


def test_a_service_that_asks_for_what_its_environment_never_had_fails_as_before(one: Bench) -> None:
    with pytest.raises(ComponentFailed, match="web does not start") as failed:
        one.provision(tiny("import nowhere"))
    assert "No module named 'nowhere'" in failed.value.details
    assert [e for e in one.events if e.phase == "note"] == []


def test_the_doctor_finds_and_mends_it_before_a_service_dies(one: Bench, cache: Path) -> None:
    one.provision(tiny())
    assert findings(one) == [(True, "1 installed and whole.")]
    (packages(cache) / "tiny" / "inner.py").unlink()
    broken = "The environment of plain is broken: tiny/inner.py of tiny is missing."
    assert findings(one) == [(False, broken)]
    assert findings(one, fix=True) == [(True, "1 installed and whole.")]
    assert (packages(cache) / "tiny" / "inner.py").exists()
