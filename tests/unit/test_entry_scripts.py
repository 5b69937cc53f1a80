"""The scripts that a clone's user types first, on machines that lack what they need."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

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
