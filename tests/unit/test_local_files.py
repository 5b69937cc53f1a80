"""Private files, generated secrets, logs and probes of the local target."""

from __future__ import annotations

import http.server
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from matcha.errors import MatchaError, NotProvisioned
from matcha.host.files import guarded, private_folder, remove_tree, write_changed, write_private
from matcha.host.logs import follow, last_lines
from matcha.host.probe import ask, ask_all
from matcha.targets.local.home import unusable, user_layout
from matcha.targets.local.secrets import SecretFile

KEEP = """
import sys
from pathlib import Path
from matcha.targets.local.secrets import SecretFile
for n in range(20):
    SecretFile(Path(sys.argv[1])).keep(f"{sys.argv[2]}-{n}", "value")
"""


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_and_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "a/b/file", b"x")
    finally:
        os.umask(before)
    assert [_mode(tmp_path / p) for p in ("a", "a/b", "a/b/file")] == [0o700, 0o700, 0o600]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, b"old")
    with pytest.raises(TypeError):
        write_private(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unchanged_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert write_changed(path, b"a")
    inode = path.stat().st_ino
    assert not write_changed(path, b"a")
    assert path.stat().st_ino == inode
    assert write_changed(path, b"b")


def test_the_guard_file_may_vanish_under_those_who_wait(tmp_path: Path) -> None:
    path = tmp_path / "guard"
    inside: list[int] = []
    worst: list[int] = []

    def work() -> None:
        for _ in range(20):
            with guarded(path):
                inside.append(1)
                worst.append(len(inside))
                time.sleep(0.001)
                inside.pop()
                path.unlink()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(worst), max(worst)) == (80, 1)


def test_trees_are_removed_whatever_their_modes_but_not_what_links_point_to(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    tree = tmp_path / "tree"
    (tree / "shut/inner").mkdir(parents=True)
    (tree / "shut/inner/file").write_text("x")
    (tree / "shut/inner/file").chmod(0o400)
    (tree / "link").symlink_to(kept)
    (tree / "shut/inner").chmod(0o500)
    (tree / "shut").chmod(0o000)
    remove_tree(tree)
    assert not tree.exists()
    assert (kept / "file").exists()
    (tmp_path / "link").symlink_to(kept)
    remove_tree(tmp_path / "link")
    assert (kept / "file").exists()
    remove_tree(tmp_path / "nothing")


def test_a_tree_that_is_written_to_meanwhile_is_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    until = time.monotonic() + 0.3

    def write() -> None:
        n = 0
        while time.monotonic() < until:
            n += 1
            try:
                (tree / str(n)).touch()
            except FileNotFoundError:
                return

    writer = threading.Thread(target=write)
    writer.start()
    remove_tree(tree)
    writer.join()
    assert not tree.exists()


def test_a_runtime_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    assert unusable(tmp_path / "mine/id") == ""
    (tmp_path / "open/id").mkdir(parents=True)
    (tmp_path / "open").chmod(0o777)
    assert "is not yours alone" in unusable(tmp_path / "open/id")
    private_folder(tmp_path / "real")
    (tmp_path / "mine/link").symlink_to(tmp_path / "real")
    assert "is not yours alone" in unusable(tmp_path / "mine/link")
    (tmp_path / "file").touch()
    assert unusable(tmp_path / "file/id") != ""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make another user's folder")
def test_a_runtime_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 12345, 12345)
    assert "is not yours alone" in unusable(theirs / "id")


def test_a_snap_does_not_get_a_data_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("XDG_DATA_HOME", "/home/ann/snap/code/174/.local/share")
    assert str(user_layout().data) == "/home/ann/.local/share/matcha"


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    file = SecretFile(tmp_path / "s" / "secrets.json")
    assert file.read() == {}
    file.ensure(["a", "b"])
    first = file.read()
    assert len(set(first.values())) == 2
    assert all(len(v) >= 40 for v in first.values())
    file.ensure(["b", "c"])
    assert {k: file.read()[k] for k in "ab"} == first
    file.keep("b", "mine")
    assert file.get("b") == "mine"
    assert (_mode(file.path), _mode(file.path.parent)) == (0o600, 0o700)
    with pytest.raises(NotProvisioned, match='no secret "x"'):
        file.get("x")


def test_processes_that_keep_secrets_at_once_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    keepers = [subprocess.Popen([sys.executable, "-c", KEEP, path, f"p{n}"]) for n in range(3)]
    assert [k.wait() for k in keepers] == [0, 0, 0]
    assert len(SecretFile(path).read()) == 60


def test_damaged_secrets_are_neither_shown_nor_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text('{"a": "TOPSECRET", "b": ')
    with pytest.raises(MatchaError, match="cannot be read") as failed:
        SecretFile(path).ensure(["c"])
    shown = [failed.value.message, failed.value.details, repr(failed.value.__context__)]
    assert "TOPSECRET" not in "".join(shown)
    assert path.read_text() == '{"a": "TOPSECRET", "b": '


def test_values_are_masked_longest_first(tmp_path: Path) -> None:
    file = SecretFile(tmp_path / "secrets.json")
    file.keep("a", "longsecret")
    file.keep("b", "longsecret-and-more")
    file.keep("short", "x")
    assert file.redact(["x longsecret-and-more longsecret"]) == ["x ******** ********"]


def test_the_last_lines_run_over_rotated_files(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    (tmp_path / "web.log.10").write_text("0\n1\n")
    (tmp_path / "web.log.2").write_text("2\n3\n")
    (tmp_path / "web.log.1").write_text("4\n5\n")
    log.write_bytes(b"6\r\n\xff7\nhalf")
    (tmp_path / "web.log.bak").write_text("no\n")
    assert last_lines(log, 100) == ["0", "1", "2", "3", "4", "5", "6", "\ufffd7", "half"]
    assert last_lines(log, 2) == ["\ufffd7", "half"]
    assert last_lines(log, 0) == []
    assert last_lines(tmp_path / "other.log", 5) == []


def test_following_goes_on_over_rotation_and_hands_out_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    log.write_text("old\nlast\nhal")
    actions = ["f\n", "rotate", "new\n", "cut", "", "again\n", ""]

    def act(_: float) -> None:
        action = actions.pop(0)
        if action == "rotate":
            log.rename(tmp_path / "web.log.1")
            log.write_text("first of the next\n")
        elif action == "cut":
            log.write_text("")
        else:
            with log.open("a") as file:
                file.write(action)

    seen = list(follow(log, 1, lambda: bool(actions), act))
    assert seen == ["last", "half", "first of the next", "new", "again"]


def test_following_waits_for_a_log_that_does_not_exist_yet(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        log.write_text("hello\n")

    lines = follow(log, 10, lambda: len(pauses) < 3, pause)
    assert next(lines) == "hello"
    lines.close()  # type: ignore[attr-defined]


TOGETHER = threading.Barrier(5)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(1)
        if self.path == "/together":
            TOGETHER.wait(60)
        self.send_response(204 if self.path.startswith("/ok") else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def test_a_probe_tells_what_a_server_does(server: str) -> None:
    assert ask(f"{server}/ok?a=b", 30) == ""
    assert ask(f"{server}/bad", 30) == "answers 503"
    assert ask(f"{server}/slow", 0.2) == "no answer in 0.2 s"


def test_a_probe_tells_what_is_no_server() -> None:
    with socket.socket() as silent_one:
        silent_one.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent_one.getsockname()[1]}/"
        assert ask(url, 10) == "nothing listens"
        silent_one.listen()
        assert ask(url, 0.2) == "no answer in 0.2 s"


def test_a_probe_of_another_protocol() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"SSH-2.0-x\r\n")
                peer.recv(1000)

        threading.Thread(target=answer, daemon=True).start()
        assert "no HTTP answer" in ask(f"http://127.0.0.1:{server.getsockname()[1]}/", 30)


def test_probes_run_side_by_side(server: str) -> None:
    answers = ask_all({str(n): f"{server}/together" for n in range(5)}, 60)
    assert set(answers.values()) == {"answers 503"}
