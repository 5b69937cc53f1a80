"""Captured lines on their way to disk: whole, counted, bounded, and safe from what senders make of them."""

from __future__ import annotations

import json
import os
import resource
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matcha.components.monitoring.inside.matcha_monitoring import layout, spool
from matcha.components.monitoring.inside.matcha_monitoring.deployments import Deployed
from matcha.components.monitoring.inside.matcha_monitoring.ledger import Ledger
from matcha.components.monitoring.inside.matcha_monitoring.spool import Full, Spool

MB = 2**20


def line(**changes: Any) -> bytes:
    sound = {
        "d": "movie",
        "v": "1",
        "t": 1.5,
        "id": "a",
        "n": 2,
        "in": [["x", "FP64", [2], [1, 2]]],
        "out": [],
    }
    return json.dumps({**sound, **changes}).encode()


def test_lines_are_counted_by_deployment_and_version() -> None:
    batch = spool.read(b"\n".join([line(), line(v="2", n=5), b"", line()]))
    assert (batch.accepted, batch.refused) == (3, 0)
    assert batch.rows == {("movie", "1"): 4, ("movie", "2"): 5}
    assert batch.lines.count(b"\n") == 3


@pytest.mark.parametrize(
    "bad",
    [
        b"garbage",
        b"[]",
        b"{}",
        b'{"d": "movie"',
        line(d=""),
        line(d="x" * 201),
        line(d=None),
        line(n=0),
        line(n=-1),
        line(n=1.5),
        line(n=10**9),
        line(t="now"),
        line(t=-1),
        line(t=1e300),
        line(id=["a"]),
        line().replace(b"[1, 2]", b"[1, NaN]"),
        line().replace(b"[1, 2]", b"[1, 2"),
        line().replace(b"[1, 2]", b"[" * 100_000 + b"]" * 100_000),
        b"\xff\xfe\x00",
    ],
    ids=lambda b: repr(b[:40]),
)
def test_a_bad_line_is_refused_and_the_others_are_kept(bad: bytes) -> None:
    batch = spool.read(line() + b"\n" + bad + b"\n" + line())
    assert (batch.accepted, batch.refused) == (2, 1)
    assert batch.why.startswith("line 2: ")


def test_rows_wait_until_their_file_is_taken_in(tmp_path: Path) -> None:
    held = Spool(tmp_path, MB)
    held.append(spool.read(line()))
    held.seal()
    held.append(spool.read(line(n=3)))
    assert held.waiting() == Counter({("movie", "1"): 5})
    next(layout.sealed(tmp_path)).unlink()
    assert held.waiting() == Counter({("movie", "1"): 3})


def test_a_restart_counts_what_waits_and_drops_an_unfinished_line(tmp_path: Path) -> None:
    held = Spool(tmp_path, MB)
    held.append(spool.read(line()))
    held.seal()
    held.append(spool.read(line(n=3)))
    with held.active.open("ab") as file:
        file.write(line(n=100)[:-5])
    again = Spool(tmp_path, MB)
    assert again.waiting() == Counter({("movie", "1"): 5})
    assert again.active.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("size", [10, 65536, 70000, 200_000])
def test_an_unfinished_line_of_any_length_is_cut(tmp_path: Path, size: int) -> None:
    held = Spool(tmp_path, MB)
    held.append(spool.read(line()))
    whole = held.active.read_bytes()
    held.active.write_bytes(whole + b"x" * size)
    assert Spool(tmp_path, MB).active.read_bytes() == whole
    held.active.write_bytes(b"x" * size)
    assert Spool(tmp_path, MB).active.read_bytes() == b""


def test_numbers_of_sealed_files_rise_over_restarts(tmp_path: Path) -> None:
    for _ in range(3):
        held = Spool(tmp_path, MB)
        held.append(spool.read(line()))
        held.seal()
        held.seal()
        for file in layout.sealed(tmp_path):
            file.unlink()
    assert (tmp_path / "sequence").read_text() == "3"


def test_a_full_spool_takes_nothing(tmp_path: Path) -> None:
    held = Spool(tmp_path, 2 * len(line()))
    held.append(spool.read(line()))
    before = held.active.read_bytes()
    with pytest.raises(Full):
        held.append(spool.read(line()))
    assert held.active.read_bytes() == before
    assert held.waiting() == Counter({("movie", "1"): 2})


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """The limit on file size stands in for the disk: the write ends in the middle of a line."""
    held = Spool(tmp_path, MB)
    held.append(spool.read(line()))
    before = held.active.read_bytes()
    if (child := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, len(before) + 50))
        try:
            held.append(spool.read(line()))
        except OSError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert held.active.read_bytes() == before


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_name_is_a_harmless_file_name_of_its_own(one: str, other: str) -> None:
    names = {layout.safe(one), layout.safe(other)}
    assert len({n.lower() for n in names}) == len({one, other})
    for name in names:
        assert 0 < len(name) <= 80
        assert not set(name) & set('/\\:*?"<>|\0\n ')
        assert not name.startswith((".", "-"))


@pytest.mark.parametrize("name", ["..", "../../etc", "a/b", "", "CON", "Movie", "\0", "x" * 500, "\ud800"])
def test_hostile_names_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    assert (tmp_path / layout.safe(name)).resolve().parent == tmp_path.resolve()


def test_windows_are_found_by_version_and_order(tmp_path: Path) -> None:
    for seq, version in ((1, "1"), (2, "1"), (10, "2"), (3, "1")):
        file = tmp_path / "windows" / "movie" / f"{seq:012d}-{layout.safe(version)}.json"
        layout.write_atomic(file, json.dumps({"seq": seq}).encode())
    (tmp_path / "windows" / "movie" / "000000000004-1.json").write_text("{torn")
    assert layout.cursor(tmp_path, "movie", "1") == 4
    assert layout.cursor(tmp_path, "movie", "3") == 0
    assert [w["seq"] for w in layout.windows(tmp_path, "movie", 3)] == [10, 3]
    assert (layout.newest(tmp_path, Deployed("movie", "models:/movie/1", "1")) or {})["seq"] == 3


def test_drops_are_cumulative_for_each_sender_and_survive_both_ends(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.json")
    for sender, total in (("a", 2), ("a", 2), ("a", 5), ("b", 1)):
        ledger.drops(sender, total)
    assert ledger.dropped == 6
    again = Ledger(tmp_path / "ledger.json")
    again.drops("a", 5)
    assert again.dropped == 6
    again.drops("a", 1)  # started anew
    assert again.dropped == 7


def test_senders_that_lose_nothing_push_no_other_out(tmp_path: Path) -> None:
    """Each start of each replica is a sender."""
    ledger = Ledger(tmp_path / "ledger.json")
    ledger.drops("a", 3)
    for number in range(1000):
        ledger.drops(f"replica-{number}", 0)
    ledger.drops("a", 3)
    assert ledger.dropped == 3
    ledger.drops("a", 4)
    assert ledger.dropped == 4
    assert list(json.loads((tmp_path / "ledger.json").read_text())["senders"]) == ["a"]


def test_a_ledger_that_cannot_be_read_starts_again(tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text("{")
    ledger = Ledger(tmp_path / "ledger.json")
    ledger.failed("movie", "it broke")
    assert Ledger(tmp_path / "ledger.json").failures["movie"]["message"] == "it broke"
    ledger.worked("movie", {"status": "too-few", "messages": ["few"]})
    assert Ledger(tmp_path / "ledger.json").failures == {}
    assert Ledger(tmp_path / "ledger.json").remarks["movie"]["status"] == "too-few"
