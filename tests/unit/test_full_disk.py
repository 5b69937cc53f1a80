"""What a disk without room for more is called, and that nothing half-made is left on it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest
from local_stack import Bench, web

from matcha import api, spec
from matcha.errors import MatchaError
from matcha.host.files import NoRoom
from matcha.service import Database


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "data").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


def test_a_database_that_the_disk_does_not_hold(tmp_path: Path, small_disk: Path, user_folders: Path) -> None:
    seed = tmp_path / "seed.sql"
    seed.write_text("create table t (x blob);\ninsert into t values (zeroblob(4000000));\n")
    bench = Bench(small_disk, tmp_path / "environments")
    service = msgspec.structs.replace(web(), databases=(Database("d", seed=seed),))
    try:
        with pytest.raises(NoRoom, match=r"d\.db cannot be written") as refused:
            bench.provision(service)
        assert refused.value.details == "No space left on device"
        assert [path.name for path in small_disk.rglob("*d.db*")] == []
    finally:
        assert bench.destroy() == []


def test_a_stack_file_that_the_disk_does_not_hold(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(MatchaError, match=r"matcha\.yaml cannot be written in .*: No space left on device"):
        api.init(small_disk)
    assert [path.name for path in small_disk.iterdir()] == ["data"]


def test_a_stack_file_whose_target_the_disk_does_not_hold(small_disk: Path) -> None:
    written = Path(api.init(small_disk))
    fill(small_disk)
    written.unlink()  # room for the file as it is, and not for the second one that takes its place
    with pytest.raises(MatchaError, match="No space left on device"):
        api.init(small_disk, target="local")
    assert [path.name for path in small_disk.iterdir()] == ["data"]
    assert not (small_disk / spec.FILE).exists()
