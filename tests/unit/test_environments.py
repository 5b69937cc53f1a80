"""Environments: real installs by uv, from a package index on this machine that also misbehaves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from packaging import tags

from matcha import damage, environments, lockfiles, pythons, requirements, sizes, uvtool
from matcha.environments import InstallProgress
from support.package_index import PackageIndex

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
INSTALL = """
import sys
from pathlib import Path
from matcha import environments
where = Path(sys.argv[1]), sys.argv[2]
print("GO", flush=True)
try:
    print(environments.install(*where, report=lambda p: print(p.phase, p.detail, flush=True)))
except environments.EnvironmentFailed as error:
    print(type(error).__name__)
"""


def inside(env: Path, code: str) -> str:
    done = subprocess.run(
        [env / "bin" / "python", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in (cache / "environments").iterdir() if path.is_dir()]


def installing(lock: Path) -> subprocess.Popen[str]:
    """An install in a process of its own, that has begun."""
    command = [sys.executable, "-c", INSTALL, str(lock), PYTHON]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "GO\n"
    return process


def said(process: subprocess.Popen[str]) -> list[str]:
    return process.communicate(timeout=60)[0].splitlines()


# Installing


def test_an_environment_is_made_once_and_holds_what_the_lock_says(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    lock = index.lock(tmp_path / "requirements.lock")
    assert not environments.is_installed(lock, PYTHON)

    env = environments.install(lock, PYTHON)

    assert env == environments.environment_path(lock, PYTHON)
    assert cache in env.parents
    assert inside(env, "import tiny, large, sys; print(tiny.inner.answer, sys.prefix)") == f"42 {env}"
    assert environments.is_installed(lock, PYTHON)
    fetched = len(index.downloads)
    assert environments.install(lock, PYTHON) == env
    assert len(index.downloads) == fetched


def test_progress_tells_the_phases_and_counts_bytes(cache: Path, index: PackageIndex, tmp_path: Path) -> None:
    lock = index.lock(tmp_path / "requirements.lock", sizes=True)
    seen: list[InstallProgress] = []

    environments.install(lock, PYTHON, warm=("tiny.inner",), report=seen.append)

    phases = list(dict.fromkeys(progress.phase for progress in seen))
    assert phases == ["preparing", "downloading", "installing", "compiling bytecode"]
    downloading = [progress for progress in seen if progress.phase == "downloading"]
    assert {progress.total for progress in downloading} == {sum(map(len, index.wheels.values()))}
    assert max(progress.done for progress in downloading) == len(index.wheels["large"])
    assert [p.elapsed for p in seen] == sorted(p.elapsed for p in seen)


def test_warm_modules_have_bytecode_at_once_and_the_rest_later(
    cache: Path, index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    lock = index.lock(tmp_path / "requirements.lock")

    env = environments.install(lock, PYTHON, warm=("tiny", "tiny.broken", "no.such.module"))
    (site,) = env.glob("lib/python*/site-packages")

    def compiled() -> set[str]:
        return {path.name.split(".")[0] for path in site.glob("*/__pycache__/*.pyc")}

    assert compiled() == {"__init__"}
    environments.compile_rest(env)
    wait_until((env / environments.BYTECODE_MARKER).exists)
    assert compiled() == {"__init__", "inner"}


def test_bytecode_is_shared_between_environments_that_hold_the_same_file(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    one = environments.install(index.lock(tmp_path / "one.lock"), PYTHON, warm=("tiny.inner",))
    two = environments.install(index.lock(tmp_path / "two.lock", "tiny"), PYTHON, warm=("tiny.inner",))

    first, second = bytecode(one), bytecode(two)
    assert one != two and first.samefile(second)
    assert inside(two, "import tiny, tiny.inner; print(tiny.inner.answer, tiny.inner.__cached__)") == (
        f"42 {second}"
    )


def test_bytecode_of_another_file_of_the_same_name_is_not_taken(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    one = environments.install(index.lock(tmp_path / "one.lock"), PYTHON)
    source = next(one.glob("lib/python*/site-packages/tiny/inner.py"))
    text, stamp = source.read_text(), source.stat().st_mtime_ns
    source.unlink()
    source.write_text(text.replace("42", "13"))
    os.utime(source, ns=(stamp, stamp))
    environments.compile_rest(one)
    wait_until((one / environments.BYTECODE_MARKER).exists)

    two = environments.install(index.lock(tmp_path / "two.lock", "tiny"), PYTHON, warm=("tiny.inner",))

    assert not bytecode(one).samefile(bytecode(two))
    assert inside(two, "import tiny; print(tiny.inner.answer)") == "42"


def bytecode(env: Path) -> Path:
    return next(env.glob("lib/python*/site-packages/tiny/__pycache__/inner.*.pyc"))


def test_an_environment_whose_python_has_gone_is_made_again(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    lock = index.lock(tmp_path / "requirements.lock")
    env = environments.install(lock, PYTHON)
    (env / "bin" / "python").unlink()
    (env / "bin" / "python").symlink_to(tmp_path / "uninstalled" / "python")
    assert not environments.is_installed(lock, PYTHON)

    environments.install(lock, PYTHON)

    assert inside(env, "import tiny; print(tiny.inner.answer)") == "42"


def in_site(env: Path, name: str) -> Path:
    return next(env.glob("lib/python*/site-packages")) / name


def gone(env: Path) -> None:
    in_site(env, "tiny").rename(env / "tiny")


def gone_with_its_description(env: Path) -> None:
    gone(env)
    shutil.rmtree(in_site(env, "tiny-1.0.dist-info"))


def emptied_in_uvs_cache_as_well(env: Path) -> None:
    in_site(env, "tiny/inner.py").write_text("")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (gone, "tiny/__init__.py of tiny is missing"),
        (gone_with_its_description, "tiny-1.0.dist-info of tiny is missing"),
        (emptied_in_uvs_cache_as_well, "tiny/inner.py of tiny is not what was installed"),
    ],
)
def test_an_environment_that_lost_files_is_found_and_made_again(
    cache: Path, index: PackageIndex, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    lock = index.lock(tmp_path / "requirements.lock")
    env = environments.install(lock, PYTHON, warm=("tiny.inner",))
    assert damage.find(env) == []
    spoil(env)
    assert [str(found) for found in damage.find(env)] == [said]
    assert environments.install(lock, PYTHON) == env, "which looks at the marker alone"
    assert damage.find(env)

    assert environments.reinstall(lock, PYTHON) == env

    assert damage.find(env) == []
    assert inside(env, "import tiny; print(tiny.inner.answer)") == "42"


def test_an_environment_is_made_again_under_a_process_that_writes_into_it(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    """As a server does that starts: its modules' bytecode, in folders that it makes again."""
    lock = index.lock(tmp_path / "requirements.lock")
    env = environments.install(lock, PYTHON)
    folder, done = in_site(env, "tiny"), threading.Event()

    def write() -> None:
        while not done.is_set():
            for number in range(200):
                with contextlib.suppress(OSError):
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / f"{number}.tmp").touch()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            environments.reinstall(lock, PYTHON)
            assert inside(env, "import tiny; print(tiny.inner.answer)") == "42"
    finally:
        done.set()
        writer.join()
    assert [path.name for path in env.parent.iterdir() if path.is_dir()] == [env.name]


def test_looking_for_damage_ends_in_time(cache: Path, index: PackageIndex, tmp_path: Path) -> None:
    env = environments.install(index.lock(tmp_path / "requirements.lock"), PYTHON)
    gone(env)
    assert damage.find(env, seconds=-1) == []


def test_a_list_of_warm_modules_is_read(tmp_path: Path) -> None:
    (tmp_path / "warm.txt").write_text("# made by a script\na.b\nc\n")
    assert environments.warm_modules(tmp_path / "warm.txt") == ("a.b", "c")
    assert environments.warm_modules(tmp_path / "none.txt") == ()
    assert environments.warm_modules(None) == ()


# Faults


@pytest.mark.parametrize(
    ("fault", "error", "details"),
    [
        ("error", environments.PackageIndexUnreachable, "500 Internal Server Error"),
        ("refuse", environments.PackageIndexUnreachable, "401"),
        ("cut", environments.DownloadFailed, "large"),
    ],
)
def test_a_failing_index_is_told_apart_and_a_rerun_succeeds(
    cache: Path,
    index: PackageIndex,
    tmp_path: Path,
    fault: str,
    error: type[environments.EnvironmentFailed],
    details: str,
) -> None:
    lock = index.lock(tmp_path / "requirements.lock", "large")
    index.fault = fault  # type: ignore[assignment]

    with pytest.raises(error) as raised:
        environments.install(lock, PYTHON)

    assert details in raised.value.details
    assert "s3kret" not in f"{raised.value.details} {raised.value.message}"
    assert raised.value.exit_code == 1
    assert raised.value.resolution
    assert leftovers(cache) == []
    index.fault = ""
    assert inside(environments.install(lock, PYTHON), "import large") == ""


def test_an_index_that_nobody_serves(
    cache: Path, index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://someone:s3kret@127.0.0.1:9/simple")

    with pytest.raises(environments.PackageIndexUnreachable) as raised:
        environments.install(index.lock(tmp_path / "requirements.lock"), PYTHON)

    assert "127.0.0.1:9" in raised.value.details
    assert "s3kret" not in raised.value.details
    assert leftovers(cache) == []


def test_a_package_that_is_not_the_locked_one_is_refused(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    lock = index.lock(tmp_path / "requirements.lock", "tiny", spoil=True)

    with pytest.raises(environments.WrongHash) as raised:
        environments.install(lock, PYTHON)

    assert "tiny==1.0" in raised.value.details
    assert leftovers(cache) == []
    assert not environments.is_installed(lock, PYTHON)


def test_packages_that_were_downloaded_are_not_fetched_again_after_a_failure(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    lock = index.lock(tmp_path / "requirements.lock")
    environments.install(index.lock(tmp_path / "first.lock", "tiny"), PYTHON)
    index.fault = "cut"
    with pytest.raises(environments.DownloadFailed):
        environments.install(lock, PYTHON)
    index.fault = ""

    environments.install(lock, PYTHON)

    assert index.downloads.count("tiny") == 1


def test_a_disk_that_is_too_small_is_refused_with_numbers(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    lock = index.lock(tmp_path / "requirements.lock", "tiny")
    lock.write_text(lock.read_text() + "#   huge==1.0 900000000000000\n")

    with pytest.raises(environments.NoDiskSpace, match=r"about 4500000\.0 GB needed, .* GB free"):
        environments.install(lock, PYTHON)

    assert index.downloads == []
    assert leftovers(cache) == []


def test_a_disk_that_fills_up_on_the_way(
    cache: Path, index: PackageIndex, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATCHA_CACHE_DIR", str(small_disk))
    monkeypatch.setattr(sizes, "LEAST", 0)
    lock = index.lock(tmp_path / "requirements.lock", "large")

    with pytest.raises(environments.NoDiskSpace) as raised:
        environments.install(lock, PYTHON)

    assert "No space left" in raised.value.details
    assert "MATCHA_CACHE_DIR" in raised.value.resolution
    assert leftovers(small_disk) == []


def test_a_cache_that_cannot_be_made(
    cache: Path, index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MATCHA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(environments.CacheUnusable, match="cache"):
        environments.install(index.lock(tmp_path / "requirements.lock"), PYTHON)


# Kills and company


def at_work_in(cache: Path) -> list[psutil.Process]:
    """Processes that have to do with this cache."""

    def is_one(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return process.pid != os.getpid() and str(cache) in " ".join(process.cmdline())
        return False

    return [process for process in psutil.process_iter() if is_one(process)]


def test_a_killed_install_ends_with_all_its_processes_and_the_next_one_finishes(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    lock = index.lock(tmp_path / "requirements.lock", "large")
    index.fault = "stall"
    killed = installing(lock)
    assert index.stalled.wait(30)
    assert at_work_in(cache)

    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=30)
    wait_until(lambda: not at_work_in(cache))
    assert not environments.is_installed(lock, PYTHON)
    index.fault = ""

    assert said(installing(lock))[-1] == str(environments.environment_path(lock, PYTHON))
    assert inside(environments.environment_path(lock, PYTHON), "import large") == ""


def test_what_a_killed_install_left_is_swept_and_what_others_make_is_not(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    left, whole = index.lock(tmp_path / "left.lock", "large"), index.lock(tmp_path / "tiny.lock", "tiny")
    index.fault = "stall"
    killed = installing(left)
    assert index.stalled.wait(30)
    assert leftovers(cache) == [environments.environment_path(left, PYTHON).name]
    environments.sweep(30)
    assert leftovers(cache), "its installer lives"

    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=30)
    environments.sweep(30)

    assert leftovers(cache) == []
    assert at_work_in(cache) == []
    index.fault = ""
    env = environments.install(whole, PYTHON)
    (cache / "environments" / "mine").mkdir()
    environments.sweep()
    assert sorted(leftovers(cache)) == [env.name, "mine"]


def test_compiling_ends_with_its_installer(cache: Path, index: PackageIndex, tmp_path: Path) -> None:
    """As uv does: a process of the environment's own Python, that waits here for a file that never comes."""
    env = environments.install(index.lock(tmp_path / "requirements.lock", "tiny"), PYTHON)
    waiting = tmp_path / "waiting"
    code = (
        "import subprocess, sys; from matcha import tether\n"
        f"with tether.started([{str(env / 'bin' / 'python')!r}, '-c', {PATIENT!r}, {str(waiting)!r}]) as p:\n"
        "    p.wait()"
    )
    starter = subprocess.Popen([sys.executable, "-c", code])
    wait_until(waiting.exists)
    assert len(at_work_in(cache)) >= 2, "the launcher and its command"
    starter.kill()
    starter.wait(30)
    wait_until(lambda: not at_work_in(cache))


PATIENT = "import pathlib, signal, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"


def test_two_at_once_install_once(cache: Path, index: PackageIndex, tmp_path: Path) -> None:
    lock = index.lock(tmp_path / "requirements.lock")
    index.fault = "stall"
    first = installing(lock)
    assert index.stalled.wait(30)
    index.fault = ""
    second = installing(lock)
    assert second.stdout is not None
    assert second.stdout.readline().startswith(f"waiting process {first.pid} since")
    index.released.set()

    by_first, by_second = said(first), said(second)

    assert [by_first[-1], by_second[-1]] == [str(environments.environment_path(lock, PYTHON))] * 2
    # uv itself may ask for a file twice; what must not be is that the second one works at all
    assert [line for line in by_second[:-1] if not line.startswith("waiting")] == []
    assert set(index.downloads) == {"large", "tiny"}


def test_different_environments_are_installed_side_by_side(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    slow = index.lock(tmp_path / "slow.lock", "large")
    quick = index.lock(tmp_path / "quick.lock", "tiny")
    index.fault = "stall"
    thread = threading.Thread(target=environments.install, args=(slow, PYTHON))
    thread.start()
    assert index.stalled.wait(30)
    index.fault = ""

    environments.install(quick, PYTHON)

    assert not environments.is_installed(slow, PYTHON)
    index.released.set()
    thread.join(timeout=60)
    assert environments.is_installed(slow, PYTHON)


def test_an_interrupt_ends_uv_and_leaves_nothing(cache: Path, index: PackageIndex, tmp_path: Path) -> None:
    lock = index.lock(tmp_path / "requirements.lock", "large")
    code = INSTALL.replace("import sys\n", "import sys, threading, time\n").replace(
        "try:\n    print(", "try:\n    threading.Thread(daemon=True, target=lambda: ", 1
    )
    code = code.replace("flush=True)))", "flush=True))).start()\n    time.sleep(60)")
    index.fault = "stall"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(lock), PYTHON],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert index.stalled.wait(30)

    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)

    assert leftovers(cache) == []
    index.fault = ""
    began = time.monotonic()
    environments.install(lock, PYTHON)  # would wait for a uv that lives
    assert time.monotonic() - began < 20


def wait_until(check: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


# Names and sizes


def test_the_key_depends_on_what_is_pinned_and_on_nothing_else(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("# a header\nsix==1.0 \\\n    --hash=sha256:aa\n    # via other\n")
    key = environments.environment_key(lock, "3.11")
    same = tmp_path / "same.lock"
    same.write_text("six==1.0 \\\r\n  --hash=sha256:aa\r\n\r\n")
    other = tmp_path / "other.lock"
    other.write_text("six==1.0 \\\n    --hash=sha256:bb\n")

    assert environments.environment_key(same, "3.11") == key
    assert environments.environment_key(other, "3.11") != key
    assert environments.environment_key(lock, "3.12") != key


def test_the_download_size_counts_what_is_missing_once(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    both = index.lock(tmp_path / "both.lock", sizes=True)
    tiny = index.lock(tmp_path / "tiny.lock", "tiny", sizes=True)
    silent = index.lock(tmp_path / "silent.lock", "large")
    of = {name: len(content) for name, content in index.wheels.items()}
    wanted = [(both, PYTHON), (tiny, PYTHON)]

    assert environments.download_size(wanted) == of["tiny"] + of["large"]
    assert environments.download_size([*wanted, (silent, PYTHON)]) is None
    environments.install(tiny, PYTHON)
    assert environments.download_size(wanted) == of["large"]
    environments.install(both, PYTHON)
    assert environments.download_size(wanted) == 0


PLATFORM = next(tags.platform_tags())


@pytest.mark.parametrize(
    ("held", "fits"),
    [
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        ("py2-none-any", False),
        (f"cp312-cp312-{PLATFORM}", True),
        (f"cp312-cp312-other.{PLATFORM}", True),
        ("cp312-cp312-other", False),
        (f"cp311-cp311-{PLATFORM}", False),
        (f"cp313-cp313-{PLATFORM}", False),
        (f"cp39-abi3-{PLATFORM}", True),
        (f"cp313-abi3-{PLATFORM}", False),
        ("digest", True),
        ("digest-of-3.11", False),
    ],
)
def test_the_download_size_goes_by_the_wheels_of_that_python(
    cache: Path, index: PackageIndex, tmp_path: Path, held: str, fits: bool
) -> None:
    """`digest`: uv shortens a long name, and only the wheel itself then says what it is for."""
    lock = index.lock(tmp_path / "tiny.lock", "tiny", sizes=True)
    environments.install(lock, PYTHON)
    (wheel,) = [p for p in (tmp_path / "uv").glob("wheels-v*/index/*/tiny/1.0-*") if p.is_dir()]
    if held.startswith("digest"):
        (about,) = wheel.glob("*.dist-info/WHEEL")
        tag = f"cp311-cp311-{PLATFORM}" if "3.11" in held else f"cp312-cp312-{PLATFORM}"
        about.write_text(f"Wheel-Version: 1.0\nTag: cp312-cp312-other\nTag: {tag}\n")
        held = "516d0c2242d49034"
    wheel.rename(wheel.with_name(f"1.0-{held}"))

    assert environments.download_size([(lock, "3.12")]) == (0 if fits else len(index.wheels["tiny"]))


def test_a_download_that_nobody_expected_has_no_known_end(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    lock = index.lock(tmp_path / "requirements.lock", "large", sizes=True)
    lock.write_text(lock.read_text().replace(str(len(index.wheels["large"])), "700"))
    silent = index.lock(tmp_path / "silent.lock", "large")
    for each in (lock, silent):
        seen: list[InstallProgress] = []
        environments.reinstall(each, PYTHON, report=seen.append)
        downloading = [p for p in seen if p.phase == "downloading"]
        assert {(p.total, p.unit) for p in downloading} <= {(0, "bytes"), (700, "bytes")}
        assert all(p.done <= p.total or not p.total for p in downloading)
        uvtool.run(["cache", "clean", "--quiet", "large"], cwd=tmp_path)
    assert "downloading (large)" in [str(p) for p in downloading]


# Python


@pytest.mark.parametrize(
    ("requires", "fits"),
    [
        (">=3.10,<3.13", {"3.10", "3.11", "3.12"}),
        (">3.10", {"3.11", "3.12", "3.13"}),
        ("==3.11", {"3.11"}),
        ("==3.11.*", {"3.11"}),
        ("~=3.12", {"3.12", "3.13"}),
        ("<=3.11,!=3.10", {"3.11"}),
        ("", {"3.10", "3.11", "3.12", "3.13"}),
    ],
)
def test_specifiers(requires: str, fits: set[str]) -> None:
    assert {version for version in pythons.SUPPORTED if pythons.fits(version, requires)} == fits


def test_the_running_python_is_used_where_it_fits() -> None:
    assert environments.python_for(">=3.10,<3.14") == PYTHON
    assert pythons.interpreter(PYTHON) == sys.executable


def test_another_python_is_used_where_the_running_one_does_not_fit() -> None:
    chosen = environments.python_for(f">=3.10,!={PYTHON}")
    assert chosen in set(pythons.SUPPORTED) - {PYTHON}


def test_no_python_fits() -> None:
    with pytest.raises(environments.PythonUnavailable, match=r"<3\.10"):
        environments.python_for("<3.10")


# Locks made at run time


def test_a_lock_is_resolved_with_hashes_and_installs(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    output = tmp_path / "made" / "requirements.lock"

    environments.compile_lock(["tiny", "large>=1"], constraints=None, python=PYTHON, output=output)

    hashes = [hashlib.sha256(content).hexdigest() for content in index.wheels.values()]
    assert [name for name in hashes if f"--hash=sha256:{name}" in output.read_text()] == hashes
    assert inside(environments.install(output, PYTHON), "import tiny, large") == ""


def test_requirements_that_contradict_the_constraints_are_told_with_the_reason(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    constraints = index.lock(tmp_path / "requirements.lock", "tiny")

    with pytest.raises(environments.EnvironmentUnresolvable) as raised:
        environments.compile_lock(
            ["tiny>=2"], constraints=constraints, python=PYTHON, output=tmp_path / "never"
        )

    assert "tiny>=2" in raised.value.details
    assert raised.value.resolution
    assert not (tmp_path / "never").exists()


def test_constraints_of_the_project_hold_beside_those_of_the_lock(
    cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    constraints = index.lock(tmp_path / "requirements.lock", "tiny")

    def lock(limit: str) -> str:
        output = tmp_path / "made"
        environments.compile_lock(
            ["tiny", "large"], constraints=constraints, limits=[limit], python=PYTHON, output=output
        )
        return output.read_text()

    assert "large==1.0" in lock("large<2")
    with pytest.raises(environments.EnvironmentUnresolvable) as raised:
        lock("large>=2")
    assert "large>=2" in raised.value.details


@pytest.mark.parametrize("has", [False, True])
def test_uv_leaves_no_credentials_folder_with_a_user_who_has_none(
    cache: Path,
    user_folders: Path,
    tmp_path: Path,
    index: PackageIndex,
    monkeypatch: pytest.MonkeyPatch,
    has: bool,
) -> None:
    """It looks for some where the index refuses what it asks for."""
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.url.replace("someone:s3kret@", ""))
    index.fault = "refuse"
    place = user_folders / "data" / "uv" / "credentials"
    if has:
        place.mkdir(parents=True)

    with pytest.raises(environments.PackageIndexUnreachable):
        environments.compile_lock(["tiny"], constraints=None, python=PYTHON, output=tmp_path / "never")

    assert place.exists() == has
    assert (cache / "uv-credentials").exists() == (not has)


BACKEND = """
import zipfile

INFO = {
    "METADATA": "Metadata-Version: 2.1\\nName: lib\\nVersion: 1.0\\nRequires-Dist: tiny\\n",
    "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "RECORD": "lib.py,,\\n",
}

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "lib-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as wheel:
        wheel.write("lib.py")
        for file, text in INFO.items():
            wheel.writestr("lib-1.0.dist-info/" + file, text)
    return name
"""


@pytest.fixture
def lib(tmp_path: Path) -> Path:
    """A source folder that needs `tiny` and builds without any other package."""
    folder = tmp_path / "a lib"
    folder.mkdir()
    build = 'requires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    project = '[project]\nname = "lib"\nversion = "1.0"\ndependencies = ["tiny"]\n'
    (folder / "pyproject.toml").write_text(f"{project}[build-system]\n{build}")
    (folder / "backend.py").write_text(BACKEND)
    (folder / "lib.py").write_text("from tiny import inner\nanswer = inner.answer\n")
    return folder


def test_a_source_folder_is_installed_apart_as_it_is_now(
    cache: Path, index: PackageIndex, tmp_path: Path, lib: Path
) -> None:
    whole, lock, rest = (tmp_path / name for name in ("whole", "lock", "rest"))
    environments.compile_lock([lib.as_uri(), "large"], constraints=None, python=PYTHON, output=whole)
    locked, unlocked = lockfiles.split(whole.read_text())
    lock.write_text(locked)
    rest.write_text(unlocked)
    assert [line.split("==")[0] for line in locked.splitlines() if "==" in line] == ["large", "tiny"]
    python = environments.install(lock, PYTHON) / "bin" / "python"

    def answer(folder: str) -> str:
        environments.install_apart(rest, python, tmp_path / folder)
        environ = {**os.environ, "PYTHONPATH": str(tmp_path / folder)}
        command = [python, "-c", "import lib; print(lib.answer)"]
        return subprocess.run(command, env=environ, text=True, stdout=subprocess.PIPE, check=True).stdout

    assert answer("first") == "42\n"
    before = requirements.fingerprint(lib)
    (lib / "lib.py").write_text("answer = 'another'\n")
    assert requirements.fingerprint(lib) != before
    assert answer("second") == "another\n"
    assert sorted(p.name for p in (tmp_path / "second").glob("*.py")) == ["lib.py"]
    assert not list(tmp_path.glob(".second*"))


def test_what_a_source_folder_says_of_itself_is_told_apart_from_its_code(lib: Path) -> None:
    told, seen = requirements.metadata(lib), requirements.fingerprint(lib)
    (lib / "build").mkdir()
    (lib / "build" / "lib.py").touch()
    assert requirements.fingerprint(lib) == seen
    (lib / "lib.py").write_text("answer = 0\n")
    assert requirements.fingerprint(lib) != seen
    assert requirements.metadata(lib) == told
    (lib / "pyproject.toml").write_text("[project]\n")
    assert requirements.metadata(lib) != told


# uv's settings and output


def test_the_users_settings_reach_uv_and_foreign_ones_do_not() -> None:
    given = {
        "PATH": "/bin",
        "PIP_INDEX_URL": "https://index.example/simple",
        "PIP_CERT": "/etc/bundle.pem",
        "HTTPS_PROXY": "http://proxy:3128",
        "VIRTUAL_ENV": "/elsewhere",
        "PYTHONPATH": "/elsewhere",
        "UV_CONSTRAINT": "/elsewhere/constraints.txt",
    }

    got = uvtool.settings(given)

    assert got["UV_DEFAULT_INDEX"] == "https://index.example/simple"
    assert got["SSL_CERT_FILE"] == "/etc/bundle.pem"
    assert got["HTTPS_PROXY"] == "http://proxy:3128"
    assert not {"VIRTUAL_ENV", "PYTHONPATH", "UV_CONSTRAINT"} & set(got)


@pytest.mark.parametrize("name", ["UV_DEFAULT_INDEX", "UV_INDEX_URL"])
def test_uvs_own_index_wins_over_pips(name: str) -> None:
    got = uvtool.settings({name: "https://mine.example", "PIP_INDEX_URL": "https://pips.example"})
    assert got[name] == "https://mine.example"
    assert "https://pips.example" not in [got.get("UV_DEFAULT_INDEX"), got.get("UV_INDEX_URL")]


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("at https://user:pa55@host/simple", "at https://****@host/simple"),
        ("http://token@host:80/x and https://a:b@c", "http://****@host:80/x and https://****@c"),
        ("`https://host/x?token=abc&y=1`", "`https://host/x?token=****&y=1`"),
        ("https://host/plain mail@host", "https://host/plain mail@host"),
    ],
)
def test_credentials_are_taken_out_of_what_uv_says(text: str, safe: str) -> None:
    assert uvtool.redact(text) == safe


UV_OUTPUTS = json.loads((Path(__file__).parent / "cases" / "uv_failures.json").read_text())


@pytest.mark.parametrize("case", UV_OUTPUTS, ids=[case["name"] for case in UV_OUTPUTS])
def test_what_uv_says_becomes_the_right_error(case: dict[str, str]) -> None:
    error = uvtool.diagnose(case["output"])
    assert type(error).__name__ == case["error"]
    assert case["output"].splitlines()[-1].strip() in error.details


# The committed locks


ROOT = Path(__file__).parent.parent.parent
COMPONENTS = ROOT / "src" / "matcha" / "components"


def pins(component: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in (COMPONENTS / component / "requirements.lock").read_text().splitlines():
        name, separator, version = line.partition("==")
        if separator and not line.startswith(("#", " ")):
            found.setdefault(name, set()).add(version.partition(";")[0].strip(" \\"))
    return found


def test_what_a_job_trains_loads_where_it_is_served() -> None:
    workspace, serving_ = pins("workspace"), pins("mlserver")
    shared = set(workspace) & set(serving_)
    assert {"mlflow", "numpy", "pandas", "scikit-learn", "cloudpickle", "skops", "pyarrow"} <= shared
    assert {name: workspace[name] for name in shared} == {name: serving_[name] for name in shared}


def test_clients_and_servers_have_the_same_version() -> None:
    assert pins("workspace")["mlflow"] == pins("mlserver")["mlflow"] == pins("mlflow")["mlflow"]
    assert pins("workspace")["zenml"] == pins("zenml")["zenml"]


@pytest.mark.parametrize("lock", sorted(COMPONENTS.glob("*/requirements.lock")), ids=lambda p: p.parent.name)
def test_a_lock_names_no_index_and_no_machine(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert not [line for line in text.splitlines() if line.startswith(("--", "-i", "/"))]
    assert sum(lockfiles.sizes(lock).values()) > 10_000_000


def script(root: Path, name: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, root / "scripts" / name, "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The scripts and what they look at, to be spoiled."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=skip)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_a_lock_that_is_out_of_date_is_named(copy: Path) -> None:
    assert script(copy, "lock") == (0, "")
    source = copy / "src/matcha/components/dvc/requirements.in"
    source.write_text(source.read_text() + "dvc-azure\n")

    code, complaint = script(copy, "lock")

    assert code == 1
    assert "components/dvc/requirements.lock is out of date" in complaint
    assert "Run scripts/lock" in complaint


def test_a_lock_that_depends_on_a_changed_partner_is_named(copy: Path) -> None:
    source = copy / "src/matcha/components/mlserver/requirements.in"
    source.write_text(source.read_text().replace("pandas\n", "pandas<3\n"))
    code, complaint = script(copy, "lock")
    assert code == 1
    assert "mlserver/requirements.lock" in complaint
    assert "workspace/requirements.lock" in complaint
    assert "zenml" not in complaint


def test_a_lock_or_a_seed_changed_by_hand_is_named(copy: Path) -> None:
    assert script(copy, "seed") == (0, "")
    lock = copy / "src/matcha/components/mlflow/requirements.lock"
    lock.write_text(lock.read_text().replace("mlflow==", "mlflow===", 1))

    assert "mlflow/requirements.lock was changed by hand" in script(copy, "lock")[1]
    code, complaint = script(copy, "seed")
    assert code == 1
    assert "mlflow/seed.sql was made with another requirements.lock" in complaint


@pytest.mark.parametrize(
    ("done", "total", "said"),
    [
        (12_400_000, 191_000_000, "downloading 12 of 191 MB (gevent)"),
        (300_000, 410_000, "downloading 300 of 410 kB (gevent)"),
        (300, 410, "downloading 300 of 410 B (gevent)"),
        (0, 0, "downloading (gevent)"),
    ],
)
def test_progress_is_said_in_units_that_fit(done: int, total: int, said: str) -> None:
    made = InstallProgress("downloading", 1.0, done=done, total=total, unit="bytes", detail="gevent")
    assert str(made) == said
