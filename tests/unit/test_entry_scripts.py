"""The scripts that a clone's user types first, on machines that lack what they need."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.pages import marked

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the scripts, and one of programs that holds no Python."""
    (tmp_path / "scripts").mkdir()
    for name in ("test", "quickstart", "scripts/lib.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "programs").mkdir()
    for name in ("bash", "dirname"):
        (tmp_path / "programs" / name).symlink_to(str(shutil.which(name)))
    return tmp_path


def test_a_kubeconfig_may_stand_apart_from_its_option(clone: Path, tmp_path: Path) -> None:
    """Pytest takes it for a path of tests then, and its folder for the one of the settings."""
    tools = clone / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name, does in {"uv": "exit 0", "python": 'printf "%s\\n" "$@"'}.items():
        (tools / name).write_text(f"#!{shutil.which('bash')}\n{does}\n")
        (tools / name).chmod(0o700)
    (clone / "programs" / "python3").symlink_to(sys.executable)
    given = ["-m", "e2e", "--kubeconfig", f"{tmp_path}/my config", "-k", "a b"]
    done = subprocess.run(
        [shutil.which("bash") or "bash", "test", *given],
        cwd=clone,
        env={"PATH": str(clone / "programs"), "HOME": str(clone)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    wanted = ["-m", "pytest", "-m", "e2e", f"--kubeconfig={tmp_path}/my config", "-k", "a b"]
    assert done.stdout.splitlines() == wanted


def program(path: Path, does: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{does}\n")
    path.chmod(0o700)


@pytest.fixture
def whole(clone: Path) -> Callable[..., list[str]]:
    """Runs `./test` with Pythons that print what they are asked for instead of doing it."""
    for name in ("cat", "id", "mkdir", "mktemp", "rm", "sed", "timeout"):
        (clone / "programs" / name).symlink_to(str(shutil.which(name)))
    (clone / "programs" / "python3").symlink_to(sys.executable)
    program(clone / ".venv/bin/uv", "exit 0")
    for venv in (".venv", ".venv310", ".venv313"):
        program(clone / venv / "bin/python", f'echo "{venv}: $*"')

    def run(**env: str) -> list[str]:
        done = subprocess.run(
            [shutil.which("bash") or "bash", "test"],
            cwd=clone,
            env={"PATH": str(clone / "programs"), "HOME": str(clone), **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_the_oldest_and_the_newest_python_have_their_turn_where_they_are(
    clone: Path, whole: Callable[..., list[str]], version: str
) -> None:
    venv = f".venv{version.replace('.', '')}: "
    said = whole()
    assert f"=== Python {version} SKIPPED: there is no Python {version} on PATH or in pyenv" in said
    assert not any(line.startswith(venv) for line in said)
    program(clone / f".pyenv/versions/{version}.1/bin/python", f'[ "${{@: -1}}" = {version} ]')
    [asked] = [line for line in whole() if line.startswith(venv)]
    assert asked.startswith(f"{venv}-m pytest ") and "tests/cli/test_lifecycle.py" in asked


def test_what_needs_a_node_is_told_where_it_is_left_out(whole: Callable[..., list[str]]) -> None:
    said = whole()
    assert "=== the whole stack on a node SKIPPED: it takes root, and MATCHA_REQUIRE_ALL=1" in said
    assert not any("tests/node" in line for line in said)


def test_with_a_kubeconfig_only_what_runs_on_that_cluster_is_selected(tmp_path: Path) -> None:
    """By the command of CONTRIBUTING.md."""
    [block] = marked(__file__)
    program, *arguments = shlex.split(block.text)
    assert program == "./test"
    file = tmp_path / "config"
    file.touch()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments[:-1], f"--kubeconfig={file}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert arguments[-1].startswith("--kubeconfig=")
    assert done.returncode == 0, done.stdout[-2000:]
    found = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    assert found and all(name.startswith("tests/node/") for name in found)


@pytest.mark.parametrize("script", ["test", "quickstart"])
def test_without_a_python_that_alone_is_said(clone: Path, script: str) -> None:
    done = subprocess.run(
        [shutil.which("bash") or "bash", script],
        cwd=clone,
        env={"PATH": str(clone / "programs"), "HOME": str(clone)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert (done.stdout, done.stderr) == ("", "Matcha needs Python 3.10 to 3.13; none was found on PATH.\n")
    assert not (clone / ".venv").exists()
