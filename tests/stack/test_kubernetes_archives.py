"""What pods do at the object store, against the real one, with faults and with boto3 as a second client."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from matcha import pythons, uvtool
from matcha.targets.kubernetes.code import POD_CODE
from matcha.targets.kubernetes.inside.matcha_pod import archive, multipart
from matcha.targets.kubernetes.inside.matcha_pod.build import _why
from matcha.targets.kubernetes.inside.matcha_pod.ending import Code, Deadline, Failed, Progress
from matcha.targets.kubernetes.inside.matcha_pod.s3 import Asked, Download, Place, Store
from matcha.targets.kubernetes.inside.matcha_pod.store import delete_prefix
from support.objectstore import ACCESS_KEY, SECRET_KEY, Meddler, ObjectStore, meddling, object_store
from support.package_index import PackageIndex, serving, wheel
from support.required import lacking

pytestmark = pytest.mark.stack

BOTO3 = "boto3==1.44.8"
BUCKET = "matcha"
PREFIX = "stack"
LARGE = 2 * multipart.PART + 12345  # of what goes up in several parts


class Done(NamedTuple):
    code: int
    lines: list[str]

    @property
    def last(self) -> str:
        return self.lines[-1] if self.lines else ""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("store")) as running:
        assert pod(running.url, "bucket", "--at", f"s3://{BUCKET}").code == 0
        yield running


@pytest.fixture
def meddler(store: ObjectStore) -> Iterator[Meddler]:
    with meddling(store.url) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _nothing_half_made(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test ends without unfinished uploads, and starts with an empty bucket."""
    yield
    if "store" in request.fixturenames:
        running: ObjectStore = request.getfixturevalue("store")
        assert unfinished(running) == []
        delete_prefix(client(running.url), place(""))


def environ(url: str, **more: str) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    about = {"AWS_ENDPOINT_URL": url, "PYTHONPATH": str(POD_CODE), "PYTHONDONTWRITEBYTECODE": "1"}
    return {"PATH": os.defpath, "NO_PROXY": "127.0.0.1", **about, **keys, **more}


def start(url: str, *arguments: Any, python: str = sys.executable, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, "-m", "matcha_pod", *map(str, arguments)],
        env=environ(url, **more),
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> Done:
    said = process.communicate(timeout=240)[0]
    assert SECRET_KEY not in said
    assert "Traceback" not in said, said
    return Done(process.returncode, said.splitlines())


def pod(url: str, *arguments: Any, **more: str) -> Done:
    return finish(start(url, *arguments, **more))


def client(url: str, seconds: float = 120, **more: str) -> Store:
    return Store(environ(url, **more), Deadline(seconds))


def unfinished(store: ObjectStore) -> list[str]:
    found = client(store.url).ask(Asked("GET", Place(BUCKET, ""), {"uploads": ""}))
    return found.all("Key")


def place(name: str) -> Place:
    return Place(BUCKET, f"{PREFIX}/{name}")


def keys(store: ObjectStore, under: str = "") -> list[str]:
    return list(client(store.url).keys(place(under)))


def noise(size: int, seed: str = "") -> bytes:
    return hashlib.shake_128(seed.encode()).digest(size)


def on_disk(store: ObjectStore, at: Place) -> Path:
    return store.folder / at.bucket / at.key


def read(store: ObjectStore, at: Place) -> bytes:
    with contextlib.closing(Download(client(store.url), at)) as source:
        return b"".join(iter(lambda: source.read(1 << 20), b""))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of files that go up in several parts."""
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "noise").write_bytes(noise(LARGE))
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o700)
    return folder


def put_files(store: ObjectStore, folder: Path, url: str = "", **metadata: str) -> Place:
    packed = folder.parent / "packed.tar.gz"
    archive.pack(folder, packed)
    archive.put(client(url or store.url), place("files.tar.gz"), packed, metadata)
    return place("files.tar.gz")


def tree(folder: Path) -> dict[str, bytes | None]:
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in paths}


# -- environments


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with serving(PackageIndex(tiny=wheel("tiny"), large=wheel("large", LARGE))) as served:
        yield served


@pytest.fixture
def with_uv(tmp_path: Path) -> dict[str, str]:
    """Variables of a container in which uv is to be found, so that no index is asked for it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "uv").symlink_to(shutil.which(uvtool.uv_path()) or uvtool.uv_path())
    return {"PATH": f"{folder}{os.pathsep}{os.defpath}", "UV_HTTP_RETRIES": "0"}


def build(store: ObjectStore, lock: Path, env: Path, url: str = "", **more: str) -> Done:
    to = place("environments/abc-{machine}.tar.gz")
    where = ["--lock", lock, "--path", env, "--to", to, "--work", env.parent / "work"]
    return pod(url or store.url, "build", *where, **more)


def unpack(store: ObjectStore, env: Path, url: str = "", *more: Any, **variables: str) -> Done:
    source = place("environments/abc-{machine}.tar.gz")
    return pod(url or store.url, "unpack", "--from", source, "--path", env, *more, **variables)


@pytest.fixture
def built(
    store: ObjectStore, index: PackageIndex, tmp_path: Path, with_uv: dict[str, str]
) -> tuple[Path, dict[str, bytes | None]]:
    """The path of an environment that is in the store and no longer there, and what it held."""
    env = tmp_path / "env"
    lock = index.lock(tmp_path / "requirements.lock")
    done = build(store, lock, env, UV_INDEX_URL=index.url, **with_uv)
    assert done.code == 0, done.lines
    held = tree(env)
    shutil.rmtree(env)
    return env, held


def test_an_unpacked_environment_is_the_one_that_was_built(
    store: ObjectStore, built: tuple[Path, dict[str, bytes | None]], tmp_path: Path
) -> None:
    env, held = built
    assert not (tmp_path / "work" / "matcha-work").exists()
    assert not any(name.startswith(".cache") for name in held)
    env.mkdir()
    (env / "left over").write_text("of a container that was killed")
    done = unpack(store, env)
    assert done.code == 0, done.lines
    assert tree(env) == {name: content for name, content in held.items() if name != ".lock"}
    code = "import sys, large, tiny; print(tiny.inner.answer, tiny.__cached__, sys.prefix)"
    said = subprocess.run(
        [env / "bin" / "python", "-v", "-c", code], capture_output=True, text=True, check=True
    )
    answer, cached, prefix = said.stdout.split()
    assert (answer, prefix) == ("42", str(env))
    assert f"code object from '{cached}'" in said.stderr  # the bytecode that was built is used
    assert "wrote" not in said.stderr


def test_bytecode_is_valid_whatever_becomes_of_the_files_times(
    store: ObjectStore, built: tuple[Path, dict[str, bytes | None]]
) -> None:
    env, _ = built
    assert unpack(store, env).code == 0
    for file in env.rglob("*.py"):
        os.utime(file, (1, 1))
    code = "import tiny"
    said = subprocess.run(
        [env / "bin" / "python", "-v", "-c", code], capture_output=True, text=True, check=True
    )
    assert re.search(r"code object from '[^']*tiny/__pycache__", said.stderr)


def test_an_archive_that_is_there_is_not_built_again(
    store: ObjectStore, built: tuple[Path, dict[str, bytes | None]], tmp_path: Path
) -> None:
    env, _ = built
    done = build(store, tmp_path / "no lock", env)
    there = place(f"environments/abc-{platform.machine()}.tar.gz")
    assert (done.code, done.last) == (0, f"{there} is there already")
    assert not env.exists()


@pytest.mark.parametrize("harm", ["cut short", "a byte changed"])
def test_a_damaged_archive_is_told_and_leaves_nothing_and_is_built_again(
    harm: str,
    store: ObjectStore,
    index: PackageIndex,
    built: tuple[Path, dict[str, bytes | None]],
    tmp_path: Path,
    with_uv: dict[str, str],
) -> None:
    env, _ = built
    file = on_disk(store, place(f"environments/abc-{platform.machine()}.tar.gz"))
    with file.open("r+b") as archived:
        if harm == "cut short":
            archived.truncate(file.stat().st_size // 2)
        else:
            archived.seek(-100, os.SEEK_END)
            byte = archived.read(1)
            archived.seek(-1, os.SEEK_CUR)
            archived.write(bytes([byte[0] ^ 1]))
    done = unpack(store, env)
    assert done.code == Code.DAMAGED
    assert "is damaged" in done.last
    assert list(env.iterdir()) == []
    again = build(store, tmp_path / "requirements.lock", env, UV_INDEX_URL=index.url, **with_uv)
    assert again.code == 0, again.lines
    assert unpack(store, env).code == 0


def test_an_archive_that_is_not_there_is_told(store: ObjectStore, tmp_path: Path) -> None:
    done = unpack(store, tmp_path / "env")
    assert done.code == Code.MISSING
    assert "it has no such object" in done.last
    assert f"not built on a {platform.machine()} node yet: `matcha provision` does that where" in done.last
    assert "may list the cluster's nodes" in done.last
    assert list((tmp_path / "env").iterdir()) == []


@pytest.mark.parametrize(("name", "other"), [("python", "cpython-27"), ("machine", "vax")])
def test_an_archive_for_elsewhere_is_refused(
    name: str, other: str, store: ObjectStore, files: Path, tmp_path: Path
) -> None:
    right = {"python": str(sys.implementation.cache_tag), "machine": platform.machine()}
    source = put_files(store, files, **{**right, name: other})
    done = pod(store.url, "unpack", "--from", source, "--path", tmp_path / "env")
    assert done.code == Code.UNSUITABLE
    assert f"for the {name} {other}" in done.last
    assert list((tmp_path / "env").iterdir()) == []


def test_an_image_with_another_python_is_named_before_anything_is_installed(
    store: ObjectStore, index: PackageIndex, tmp_path: Path
) -> None:
    """Whatever its name says: only here the real one is known."""
    here = f"3.{sys.version_info[1]}"
    where = ["--lock", index.lock(tmp_path / "lock"), "--path", tmp_path / "env"]
    to = ["--to", place("environments/abc-{machine}.tar.gz")]
    done = pod(store.url, "build", *where, *to, "--python", f">=3.10,!={here}")
    assert done.code == Code.UNSUITABLE and len(done.lines) == 1
    assert f"need Python >=3.10,!={here}, and this image has {here}" in done.last
    assert "targets.kubernetes.image" in done.last
    assert not (tmp_path / "env").exists()


def test_without_uv_pip_installs_the_same(store: ObjectStore, index: PackageIndex, tmp_path: Path) -> None:
    env = tmp_path / "env"
    done = build(store, index.lock(tmp_path / "lock"), env, PIP_INDEX_URL=index.url, PIP_RETRIES="0")
    assert done.code == 0, done.lines
    assert any(line.startswith("no uv (") for line in done.lines)
    shutil.rmtree(env)
    assert unpack(store, env).code == 0
    subprocess.run([env / "bin" / "python", "-c", "import tiny, large"], check=True)


def test_uv_comes_from_the_package_index(store: ObjectStore, tmp_path: Path) -> None:
    """With the packages of a real lock, of two kinds: pure Python, and with an extension."""
    wanted = POD_CODE.parents[2] / "components" / "mlserver" / "requirements.lock"
    entries = re.findall(r"(?ms)^(?:six|zope-event|markupsafe)==.*?(?=^\S)", wanted.read_text())
    (tmp_path / "lock").write_text("".join(entries))
    given = {n: v for n, v in os.environ.items() if n.startswith(("PIP_", "UV_", "SSL_"))}
    done = build(store, tmp_path / "lock", tmp_path / "env", **given)
    assert done.code == 0, done.lines
    assert not any(line.startswith("no uv (") for line in done.lines), done.lines
    shutil.rmtree(tmp_path / "env")
    assert unpack(store, tmp_path / "env").code == 0
    code = "import markupsafe._speedups, six, zope.event"
    subprocess.run([tmp_path / "env" / "bin" / "python", "-c", code], check=True)


UNREACHABLE = (Code.INDEX, "cannot be reached, or broke off")
UNKNOWN = (Code.INDEX, "lacks a package or gives none out")
INDEX_FAULTS = {
    ("uv", "error"): UNREACHABLE,
    ("uv", "cut"): UNREACHABLE,
    ("uv", "refuse"): (Code.PACKAGES, "refused the credentials"),
    ("uv", "other file"): (Code.PACKAGES, "holds another file than was locked"),
    ("uv", "lacks"): (Code.PACKAGES, "lacks a package"),
    ("pip", "error"): UNKNOWN,
    ("pip", "refuse"): UNKNOWN,
    ("pip", "other file"): (Code.PACKAGES, "holds another file than was locked"),
    ("pip", "lacks"): UNKNOWN,
}


@pytest.mark.parametrize(("installer", "fault"), INDEX_FAULTS)
def test_what_is_wrong_with_the_index_is_told(
    installer: str,
    fault: Any,
    store: ObjectStore,
    index: PackageIndex,
    tmp_path: Path,
    with_uv: dict[str, str],
) -> None:
    lock = index.lock(tmp_path / "lock", "tiny", spoil=fault == "other file")
    if fault == "lacks":
        del index.wheels["tiny"]
    elif fault != "other file":
        index.fault = fault
    how = with_uv if installer == "uv" else {"PIP_RETRIES": "0"}
    done = build(store, lock, tmp_path / "env", UV_INDEX_URL=index.url, **how)
    code, words = INDEX_FAULTS[installer, fault]
    assert done.code == code, done.lines
    assert done.last.startswith("The packages could not be installed: the index")
    assert words in done.last
    assert "s3kret" not in "\n".join(done.lines)
    assert keys(store) == []


# -- trouble on the way


def test_what_goes_up_in_parts_is_there_whole_with_its_digest(store: ObjectStore, files: Path) -> None:
    source = put_files(store, files)
    content = (files.parent / "packed.tar.gz").read_bytes()
    assert len(content) > 2 * multipart.PART
    assert read(store, source) == content
    metadata = client(store.url).ask(Asked("HEAD", source)).metadata
    assert metadata["sha256"] == hashlib.sha256(content).hexdigest()
    assert metadata["size"] == str(len(content))


UPLOAD_TROUBLE = {
    "a part cut off": ("cut request", "PUT", "partNumber=2"),
    "a part's answer lost": ("lose answer", "PUT", "partNumber=2"),
    "a part spoiled on the way": ("spoil request", "PUT", "partNumber=2"),
    "a part too many": ("slow", "PUT", "partNumber=2"),
    "the begin's answer cut off": ("cut answer", "POST", "uploads="),
    "the end's answer lost": ("lose answer", "POST", "uploadId="),
    "the end's answer cut off": ("cut answer", "POST", "uploadId="),
    "the end too many": ("slow", "POST", "uploadId="),
}


@pytest.mark.parametrize("trouble", UPLOAD_TROUBLE)
def test_an_upload_gets_through_trouble_that_passes(
    trouble: str, store: ObjectStore, meddler: Meddler, files: Path
) -> None:
    action, method, part = UPLOAD_TROUBLE[trouble]
    came = meddler.add(action, method, part, times=2).came  # type: ignore[arg-type]
    source = put_files(store, files, url=meddler.url)
    assert came.is_set()
    assert read(store, source) == (files.parent / "packed.tar.gz").read_bytes()
    for key in unfinished(store):  # of a begin whose answer was lost, nobody knows the name
        assert "begin" in trouble
        multipart.abandon(client(store.url), Place(BUCKET, key))


def test_an_upload_that_never_gets_through_leaves_nothing(
    store: ObjectStore, meddler: Meddler, files: Path
) -> None:
    meddler.add("cut request", "PUT", "partNumber=3", times=10_000)
    archive.pack(files, files.parent / "packed.tar.gz")
    with pytest.raises(Failed) as caught:
        archive.put(client(meddler.url, 5), place("files.tar.gz"), files.parent / "packed.tar.gz", {})
    assert caught.value.code == Code.UNREACHABLE
    assert "cannot be used: " in str(caught.value)
    assert keys(store) == unfinished(store) == []


def stopped_in_an_upload(
    store: ObjectStore, meddler: Meddler, files: Path, number: signal.Signals
) -> tuple[int, str]:
    held = meddler.add("hold", "PUT", "partNumber=2")
    to = ["--from", files / "sub" / "noise", "--to", place("held")]
    process = start(meddler.url, "upload", *to)
    assert held.came.wait(60)
    process.send_signal(number)
    if number == signal.SIGKILL:
        assert process.communicate(timeout=60)
        return process.returncode, ""
    done = finish(process)
    return done.code, done.last


def test_a_stopped_upload_takes_its_parts_away(store: ObjectStore, meddler: Meddler, files: Path) -> None:
    code, last = stopped_in_an_upload(store, meddler, files, signal.SIGTERM)
    assert (code, last) == (Code.STOPPED, "Stopped by SIGTERM before it was done.")
    assert keys(store) == unfinished(store) == []


def test_what_a_killed_build_left_cannot_be_read_and_goes_with_the_next(
    store: ObjectStore,
    meddler: Meddler,
    index: PackageIndex,
    tmp_path: Path,
    with_uv: dict[str, str],
) -> None:
    lock, env = index.lock(tmp_path / "lock"), tmp_path / "env"
    held = meddler.add("hold", "PUT", "partNumber=2")
    to = [
        "--lock",
        lock,
        "--path",
        env,
        "--to",
        place(f"environments/abc-{platform.machine()}.tar.gz"),
        "--work",
        tmp_path / "work",
    ]
    process = start(meddler.url, "build", *to, UV_INDEX_URL=index.url, **with_uv)
    assert held.came.wait(120), process.communicate(timeout=60)
    process.kill()
    process.communicate(timeout=60)
    held.let_go.set()
    assert unfinished(store) == [place(f"environments/abc-{platform.machine()}.tar.gz").key]
    assert unpack(store, env).code == Code.MISSING
    done = build(store, lock, env, UV_INDEX_URL=index.url, **with_uv)
    assert done.code == 0, done.lines
    assert unfinished(store) == []
    assert unpack(store, env).code == 0


def test_an_upload_goes_on_when_the_store_has_been_killed_and_is_back(tmp_path: Path, files: Path) -> None:
    with object_store(tmp_path / "own store") as own, meddling(own.url) as proxy:
        assert pod(own.url, "bucket", "--at", f"s3://{BUCKET}").code == 0
        held = proxy.add("hold", "PUT", "partNumber=2")
        process = start(proxy.url, "upload", "--from", files / "sub" / "noise", "--to", place("held"))
        assert held.came.wait(60)
        own.stop()
        held.let_go.set()
        own.start()
        assert finish(process).code == 0
        (key,) = keys(own)
        assert gzip.decompress(read(own, Place(BUCKET, key))) == (files / "sub" / "noise").read_bytes()
        assert unfinished(own) == []


@pytest.mark.parametrize("action", ["cut answer", "slow", "lose answer"])
def test_a_download_goes_on_where_it_broke(
    action: Any, store: ObjectStore, meddler: Meddler, files: Path, tmp_path: Path
) -> None:
    source = put_files(store, files)
    meddler.add(action, "GET", source.key, times=4)
    out = tmp_path / "out"
    done = pod(meddler.url, "extract", "--from", source, "--path", out)
    assert done.code == 0, done.lines
    assert tree(out) == tree(files)
    assert {(out / n).stat().st_mode & 0o777 for n in ("run", "sub")} == {0o755}
    asked = [headers.get("range") for method, _, headers in meddler.requests if method == "GET"]
    assert len(asked) == 5
    assert (action == "cut answer") == any(asked)


def test_a_download_that_breaks_for_ever_leaves_nothing(
    store: ObjectStore, meddler: Meddler, files: Path, tmp_path: Path
) -> None:
    source = put_files(store, files)
    meddler.add("cut answer", "GET", source.key, times=10_000)
    done = pod(meddler.url, "extract", "--from", source, "--path", tmp_path / "out")
    assert done.code == Code.UNREACHABLE
    assert re.search(r"The download of \S+ broke \d+ times: it was cut off\.$", done.last)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_object_replaced_while_it_is_read_is_not_mixed(
    store: ObjectStore, meddler: Meddler, files: Path, tmp_path: Path
) -> None:
    source = put_files(store, files)
    meddler.add("cut answer", "GET", source.key)
    held = meddler.add("hold", "GET", source.key)
    process = start(meddler.url, "extract", "--from", source, "--path", tmp_path / "out")
    assert held.came.wait(60)
    (files / "sub" / "noise").write_bytes(noise(LARGE, "other"))
    put_files(store, files)
    held.let_go.set()
    done = finish(process)
    assert (done.code, done.last) == (Code.UNREACHABLE, f"{source} was replaced while it was read.")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_stopped_unpack_leaves_nothing(
    store: ObjectStore, meddler: Meddler, files: Path, tmp_path: Path
) -> None:
    source = put_files(store, files)
    meddler.add("cut answer", "GET", source.key)
    held = meddler.add("hold", "GET", source.key)
    process = start(meddler.url, "extract", "--from", source, "--path", tmp_path / "out")
    assert held.came.wait(60)
    process.terminate()
    assert finish(process).code == Code.STOPPED
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_spoiled_on_its_way_down_is_told(
    store: ObjectStore, meddler: Meddler, files: Path, tmp_path: Path
) -> None:
    source = put_files(store, files)
    meddler.add("spoil answer", "GET", source.key)
    done = pod(meddler.url, "extract", "--from", source, "--path", tmp_path / "out")
    assert done.code == Code.DAMAGED
    assert "is damaged" in done.last
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "the secret key is wrong"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "it does not know the access key"),
        ({"AWS_SESSION_TOKEN": "", "AWS_REGION": "mars"}, ""),
    ],
)
@pytest.mark.parametrize("command", ["bucket", "probe", "build", "unpack", "upload"])
def test_wrong_credentials_are_told_at_once(
    command: str, variables: dict[str, str], words: str, store: ObjectStore, files: Path, tmp_path: Path
) -> None:
    arguments = {
        "bucket": ["--at", f"s3://{BUCKET}"],
        "probe": ["--at", f"s3://{BUCKET}/{PREFIX}"],
        "build": ["--lock", "x", "--path", tmp_path / "env", "--to", place("a.tar.gz")],
        "unpack": ["--from", place("a.tar.gz"), "--path", tmp_path / "env"],
        "upload": ["--from", files / "sub" / "noise", "--to", place("dump")],
    }
    done = pod(store.url, command, *arguments[command], **variables)
    assert done.code == Code.REFUSED
    assert done.last.startswith(f"The object store at {store.url} refused ")
    assert words in done.last
    assert "wrong " not in done.last


def test_a_large_put_that_is_refused_early_says_why(store: ObjectStore) -> None:
    body = noise(multipart.PART - 1)
    with pytest.raises(Failed) as caught:
        client(store.url, 20, AWS_SECRET_ACCESS_KEY="wrong").ask(Asked("PUT", place("a"), body=body))
    assert "the secret key is wrong" in str(caught.value)


def test_a_store_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    own = ObjectStore(tmp_path / "own store")
    own.start()
    own.stop()
    done = pod(own.url, "bucket", "--at", f"s3://{BUCKET}", "--deadline", "2")
    assert done.code == Code.UNREACHABLE
    assert done.last == f"The object store at {own.url} cannot be used: Connection refused."
    process = start(own.url, "bucket", "--at", f"s3://{BUCKET}")
    with contextlib.ExitStack() as ending:
        ending.callback(own.stop)
        own.start()
        assert finish(process).code == 0
        assert (own.folder / BUCKET).is_dir()


def test_a_store_that_never_answers_ends_with_the_deadline(
    store: ObjectStore, meddler: Meddler, tmp_path: Path
) -> None:
    meddler.add("hold", "GET", times=100)
    began = time.monotonic()
    done = unpack(store, tmp_path / "env", meddler.url, "--deadline", "3")
    assert done.code == Code.UNREACHABLE
    assert done.last.endswith("cannot be used: no answer in time.")
    assert time.monotonic() - began < 60


def test_missing_settings_are_told(tmp_path: Path) -> None:
    done = pod("http://127.0.0.1:1", "bucket", "--at", f"s3://{BUCKET}", AWS_SECRET_ACCESS_KEY="")
    assert (done.code, done.last) == (
        Code.USAGE,
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both set.",
    )


def test_a_certificate_is_checked_against_the_bundle(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    options = ["--cert", str(tmp_path / "cert.pem"), "--key", str(tmp_path / "key.pem")]
    with object_store(tmp_path / "own store", *options, scheme="https") as own:
        trusted = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        assert pod(own.url, "bucket", "--at", f"s3://{BUCKET}", **trusted).code == 0
        done = pod(own.url, "bucket", "--at", f"s3://{BUCKET}")
        assert done.code == Code.REFUSED
        assert "shows a certificate that is not trusted here" in done.last
        assert "targets.kubernetes.ca-bundle in matcha.yaml names whom to trust" in done.last


@pytest.mark.parametrize(
    ("said", "option"),
    [
        ("error: invalid peer certificate: UnknownIssuer", "ca-bundle"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "ca-bundle"),
        ("error sending request for url: dns error: failed to lookup address", "index-url"),
    ],
)
def test_what_a_pod_cannot_have_is_told_with_the_option_of_matcha_yaml(said: str, option: str) -> None:
    """Who reads it sets no variable of a pod."""
    told = str(_why([said], 1))
    assert f"targets.kubernetes.{option} in matcha.yaml" in told and "SSL_CERT_FILE" not in told


# -- disks


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        (pytest.fail if os.environ.get("MATCHA_REQUIRE_ALL") else pytest.skip)("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_told_and_leaves_nothing(store: ObjectStore, files: Path, tiny_disk: Path) -> None:
    source = put_files(store, files)
    done = pod(store.url, "extract", "--from", source, "--path", tiny_disk)
    assert done.code == Code.NO_SPACE
    assert done.last == f"The disk is full: there is no room left at {tiny_disk}."
    assert list(tiny_disk.iterdir()) == []


@pytest.mark.parametrize("what", ["environment", "archive"])
def test_a_disk_too_small_to_build_on_is_told(
    what: str,
    store: ObjectStore,
    index: PackageIndex,
    tmp_path: Path,
    tiny_disk: Path,
    with_uv: dict[str, str],
) -> None:
    lock = index.lock(tmp_path / "lock")
    env, work = (tiny_disk, tmp_path) if what == "environment" else (tmp_path / "env", tiny_disk)
    to = ["--lock", lock, "--path", env, "--to", place("a.tar.gz"), "--work", work]
    done = pod(store.url, "build", *to, UV_INDEX_URL=index.url, **with_uv)
    assert done.code == Code.NO_SPACE
    assert "disk is full" in done.last
    assert keys(store) == []


def test_a_full_store_is_told(files: Path, tiny_disk: Path) -> None:
    with object_store(tiny_disk / "own store", "--region", "us-east-1") as own:
        assert pod(own.url, "bucket", "--at", f"s3://{BUCKET}").code == 0
        done = pod(own.url, "upload", "--from", files / "sub" / "noise", "--to", place("a"))
        assert done.code == Code.NO_SPACE, done.lines
        assert done.last.endswith("its disk is full.")
        assert keys(own) == unfinished(own) == []


def test_a_folder_that_cannot_be_written_is_told(store: ObjectStore, files: Path) -> None:
    source = put_files(store, files)
    done = pod(store.url, "extract", "--from", source, "--path", "/proc/matcha")
    assert done.code == Code.FAILED
    assert done.last.startswith("/proc/matcha cannot be used: ")


# -- archives that are not ours


def crafted(store: ObjectStore, *members: tuple[str, bytes, str]) -> Place:
    """An archive that says the truth about its digest; `members` are names, kinds and targets of links."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            member.size = 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"evil"))
    content = packed.getvalue()
    about = {"size": str(len(content)), "sha256": hashlib.sha256(content).hexdigest()}
    multipart.upload(client(store.url), place("crafted.tar.gz"), [content], about)
    return place("crafted.tar.gz")


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", tarfile.REGTYPE, "")],
        [("a/../../evil", tarfile.REGTYPE, "")],
        [("{outside}/evil", tarfile.REGTYPE, "")],
        [("link", tarfile.SYMTYPE, "{outside}"), ("link/evil", tarfile.REGTYPE, "")],
        [("link", tarfile.SYMTYPE, ".."), ("link/evil", tarfile.REGTYPE, "")],
        [("evil", tarfile.LNKTYPE, "{outside}/present")],
        [("evil", tarfile.FIFOTYPE, "")],
        [("evil", tarfile.CHRTYPE, "")],
    ],
)
def test_archives_that_leave_their_folder_are_refused(
    members: list[tuple[str, bytes, str]], store: ObjectStore, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "present").write_text("")
    real = [(n.format(outside=outside), k, t.format(outside=outside)) for n, k, t in members]
    source = crafted(store, ("good", tarfile.REGTYPE, ""), *real)
    done = pod(store.url, "extract", "--from", source, "--path", tmp_path / "out" / "in")
    assert done.code == Code.DAMAGED
    assert "may hold files and folders inside of it only" in done.last
    assert list(outside.iterdir()) == [outside / "present"]
    assert list((tmp_path / "out").rglob("*")) == [tmp_path / "out" / "in"]


def test_an_archive_without_a_digest_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    multipart.upload(client(store.url), place("a.tar.gz"), [gzip.compress(b"\0" * 10240)], {})
    done = pod(store.url, "extract", "--from", place("a.tar.gz"), "--path", tmp_path / "out")
    assert done.code == Code.DAMAGED


def test_links_are_packed_as_what_they_lead_to(store: ObjectStore, files: Path, tmp_path: Path) -> None:
    (files / "link").symlink_to("run")
    (files / "hard").hardlink_to(files / "run")
    source = put_files(store, files)
    assert pod(store.url, "extract", "--from", source, "--path", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "link").read_text() == (files / "run").read_text()
    assert not (tmp_path / "out" / "link").is_symlink()
    assert (tmp_path / "out" / "hard").read_text() == (files / "run").read_text()


# -- dumps, prefixes, buckets


def test_dumps_are_compressed_and_only_the_newest_stay(store: ObjectStore, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.mkdir()
    content = noise(LARGE).hex().encode() + b"\n-- Dump completed on 2026-01-01\n"
    (dump / "databases.sql").write_bytes(content)
    old = [f"backups/databases-2026010{n}T000000Z.sql.gz" for n in range(1, 5)]
    others = ["backups/databases-mine.sql.gz", "backups/databases2-20260101T000000Z.sql.gz"]
    for name in (*old, *others):
        multipart.upload(client(store.url), place(name), [b""], {})
    to = ["--to", place("backups/databases"), "--keep", 3, "--ends-with", "-- Dump completed"]
    done = pod(store.url, "upload", "--from", dump, *to)
    assert done.code == 0, done.lines
    left = set(keys(store, "backups/"))
    assert {place(name).key for name in (*old[2:], *others)} < left
    (new,) = left - {place(name).key for name in (*old[2:], *others)}
    assert re.fullmatch(rf"{PREFIX}/backups/databases-\d{{8}}T\d{{6}}Z\.sql\.gz", new)
    assert gzip.decompress(read(store, Place(BUCKET, new))) == content


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ("CREATE TABLE", Code.DAMAGED, "does not stand at its end. Nothing was uploaded."),
        (None, Code.USAGE, "holds 0 files; one was expected."),
    ],
)
def test_a_dump_that_is_not_whole_takes_no_older_one_away(
    content: str | None, code: Code, words: str, store: ObjectStore, tmp_path: Path
) -> None:
    if content:
        (tmp_path / "databases.sql").write_text(content)
    old = place("backups/databases-20260101T000000Z.sql.gz")
    multipart.upload(client(store.url), old, [b""], {})
    to = ["--to", place("backups/databases"), "--keep", 1, "--ends-with", "-- Dump completed"]
    done = pod(store.url, "upload", "--from", tmp_path, *to)
    assert done.code == code
    assert done.last.endswith(words)
    assert keys(store) == [old.key]


ODD_NAMES = ["with space", "ünï", "a+b=c&d", "100%", "q?a#b", "<tag>", "'\"", "~tilde", "a//b", "..dots"]


def test_a_prefix_goes_with_all_that_is_under_it_and_nothing_else(store: ObjectStore) -> None:
    mine = client(store.url)
    under = store.folder / BUCKET / PREFIX / "gone"
    under.mkdir(parents=True)
    for number in range(1100):
        (under / f"{number:04}").write_bytes(b"")
    names = [name for name in ODD_NAMES if name != "a//b"]
    for name in names:
        multipart.upload(mine, place(f"gone/{name}"), [b"x"], {})
    multipart.upload(mine, place("gone2"), [b"x"], {})
    mine.ask(Asked("POST", place("gone/unfinished"), {"uploads": ""}))
    assert pod(store.url, "delete", "--at", place("gone")).code == Code.USAGE
    done = pod(store.url, "delete", "--at", place("gone/"))
    assert done.code == 0, done.lines
    assert done.last == f"deleted {1100 + len(names)} objects under {place('gone/')}"
    assert keys(store) == [place("gone2").key]


def test_a_whole_bucket_is_not_deleted(store: ObjectStore) -> None:
    assert pod(store.url, "delete", "--at", f"s3://{BUCKET}/").code == Code.USAGE


def test_a_bucket_is_made_once(tmp_path: Path) -> None:
    with object_store(tmp_path / "own store", "--region", "eu-west-9") as own:
        for _ in range(2):
            done = pod(own.url, "bucket", "--at", f"s3://{BUCKET}", AWS_REGION="eu-west-9")
            assert done.code == 0, done.lines
        assert (own.folder / BUCKET).is_dir()


@pytest.mark.parametrize("at", [BUCKET, f"{BUCKET}/{PREFIX}", f"{BUCKET}/{PREFIX}/"])
def test_a_try_of_a_bucket_leaves_nothing_there(at: str, store: ObjectStore) -> None:
    client(store.url).ask(Asked("PUT", place("there before"), body=b"1"))
    done = pod(store.url, "probe", "--at", f"s3://{at}")
    assert done.code == 0, done.lines
    assert list(client(store.url).keys(Place(BUCKET, ""))) == [place("there before").key]


def test_a_try_of_a_bucket_that_is_missing_names_it(store: ObjectStore) -> None:
    done = pod(store.url, "probe", "--at", "s3://another/ml")
    said = f"The object store at {store.url} refused GET s3://another/: it has no such bucket."
    assert (done.code, done.last) == (Code.MISSING, said)


@pytest.mark.parametrize(
    ("method", "part", "named", "stays"),
    [
        ("GET", "list-type", f"s3://{BUCKET}/:", 0),
        ("PUT", "probe-", f"s3://{BUCKET}/{PREFIX}/probe-", 0),
        ("GET", "probe-", f"s3://{BUCKET}/{PREFIX}/probe-", 0),
        ("DELETE", "probe-", f"s3://{BUCKET}/{PREFIX}/probe-", 1),
    ],
)
def test_a_try_of_a_bucket_names_what_may_not_be_done(
    method: str, part: str, named: str, stays: int, store: ObjectStore, meddler: Meddler
) -> None:
    meddler.add("refuse", method, part)
    done = pod(meddler.url, "probe", "--at", f"s3://{BUCKET}/{PREFIX}")
    assert done.code == Code.REFUSED
    assert done.last.startswith(f"The object store at {meddler.url} refused {method} {named}")
    assert done.last.endswith("these credentials have no right to do that.")
    assert len(keys(store)) == stays


def test_a_bucket_that_gives_out_another_content_does_not_pass(store: ObjectStore, meddler: Meddler) -> None:
    meddler.add("spoil answer", "GET", "/probe-")
    done = pod(meddler.url, "probe", "--at", f"s3://{BUCKET}/{PREFIX}")
    assert done.code == Code.DAMAGED and "than was written" in done.last
    assert keys(store) == []


# -- other clients, other Pythons


BOTO = """
import boto3, json, os, sys
from botocore.config import Config
config = Config(s3={"addressing_style": "path"})
client = boto3.client("s3", config=config, region_name="us-east-1")
asked = json.load(sys.stdin)
bucket, prefix = asked["bucket"], asked["prefix"]
from boto3.s3.transfer import TransferConfig
for name, file in asked["put"].items():
    client.upload_file(file, bucket, prefix + name, ExtraArgs={"Metadata": {"by": "boto3"}},
                       Config=TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20))
found = {}
for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
    for entry in page.get("Contents", []):
        import hashlib
        got = client.get_object(Bucket=bucket, Key=entry["Key"])
        digest = hashlib.sha256(got["Body"].read()).hexdigest()
        found[entry["Key"]] = {"sha256": digest, "metadata": got["Metadata"], "size": entry["Size"]}
print(json.dumps(found))
"""


def by_boto3(store: ObjectStore, put: dict[str, Path]) -> dict[str, Any]:
    asked = {"bucket": BUCKET, "prefix": f"{PREFIX}/", "put": {n: str(p) for n, p in put.items()}}
    given = {n: v for n, v in os.environ.items() if n.startswith(("PIP_", "UV_", "SSL_", "HOME"))}
    command = [uvtool.uv_path(), "run", "-q", "--isolated", "--no-project", "--with", BOTO3]
    done = subprocess.run(
        [*command, "--python", sys.executable, "python", "-c", BOTO],
        input=json.dumps(asked),
        env=environ(store.url, **given),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_boto3_reads_what_we_put_and_we_read_what_it_puts(
    store: ObjectStore, files: Path, tmp_path: Path
) -> None:
    names = [name for name in ODD_NAMES if name != "a//b"]
    contents = {f"ours/{name}": name.encode() for name in names}
    contents["ours/large"] = noise(LARGE)
    contents["ours/exact"] = noise(2 * multipart.PART)
    contents["ours/empty"] = b""
    for name, content in contents.items():
        multipart.upload(client(store.url), place(name), [content], {"by": "us"})
    theirs = {}
    for name in [*names, "large", "empty"]:
        file = tmp_path / hashlib.sha256(name.encode()).hexdigest()
        file.write_bytes(noise(LARGE) if name == "large" else name.encode() if name != "empty" else b"")
        theirs[f"theirs/{name}"] = file
    found = by_boto3(store, theirs)
    for name, content in contents.items():
        seen = found[place(name).key]
        assert (seen["sha256"], seen["size"]) == (hashlib.sha256(content).hexdigest(), len(content)), name
        assert seen["metadata"]["by"] == "us"
    assert set(keys(store)) == set(found)
    for name, file in theirs.items():
        assert read(store, place(name)) == file.read_bytes(), name
        assert client(store.url).ask(Asked("HEAD", place(name))).metadata["by"] == "boto3"


@pytest.mark.parametrize("version", pythons.SUPPORTED)
def test_every_python_that_images_may_have_runs_it(
    version: str, store: ObjectStore, index: PackageIndex, tmp_path: Path, with_uv: dict[str, str]
) -> None:
    python = pythons._find_python(version)
    if not python:
        lacking(f"no Python {version} on this machine")
    env, to = tmp_path / "env", place(f"environments/abc-{platform.machine()}.tar.gz")
    where = ["--lock", index.lock(tmp_path / "lock"), "--path", env, "--to", to, "--work", tmp_path]
    built = finish(start(store.url, "build", *where, python=python, UV_INDEX_URL=index.url, **with_uv))
    assert built.code == 0, built.lines
    shutil.rmtree(env)
    unpacked = finish(start(store.url, "unpack", "--from", to, "--path", env, python=python))
    assert unpacked.code == 0, unpacked.lines
    code = "import sys, tiny; print('%d.%d' % sys.version_info[:2])"
    said = subprocess.run([env / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == version


def test_what_is_long_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    progress = Progress("unpacking", 300_000_000)
    for done in (1_000_000, 30_000_000):
        progress(done)
    assert capsys.readouterr().out.splitlines() == ["unpacking: 30 MB of 300 MB"]
