"""Ports: preferred where free, stable, never two stacks' at once."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from matcha.host.ports import PortBook, Wish, is_free

CLAIM = """
import sys
from pathlib import Path
from matcha.host.ports import PortBook, Wish
book = PortBook(Path(sys.argv[1]), lambda _: True)
print(book.claim(sys.argv[2], [Wish(f"s/{n}", int(sys.argv[3])) for n in range(5)], lambda _: False))
"""


@contextmanager
def listening(port: int = 0, host: str = "127.0.0.1") -> Iterator[int]:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen()
        yield int(server.getsockname()[1])


@pytest.fixture
def free() -> int:
    with listening() as port:
        return port


@pytest.fixture
def book(tmp_path: Path) -> PortBook:
    return PortBook(tmp_path / "ports.json", lambda stack: stack != "gone")


def never(_: int) -> bool:
    return False


def test_the_preferred_port_is_taken_when_free(book: PortBook, free: int) -> None:
    assert book.claim("a", [Wish("s/http", free)], never) == {"s/http": free}


def test_another_is_taken_when_it_is_not(book: PortBook) -> None:
    with listening() as busy:
        port = book.claim("a", [Wish("s/http", busy)], never)["s/http"]
        assert port != busy
        assert is_free(port)


def test_a_listener_on_every_interface_makes_it_busy() -> None:
    with listening(host="") as busy:
        assert not is_free(busy)


def test_a_port_of_fading_connections_is_free(free: int) -> None:
    with listening(free), socket.create_connection(("127.0.0.1", free)):
        pass
    assert is_free(free)


def test_a_port_below_1024_or_none_falls_back(book: PortBook) -> None:
    port = book.claim("a", [Wish("s/http", 0)], never)["s/http"]
    assert port > 1023


def test_the_recorded_port_wins_over_the_preferred(book: PortBook, free: int) -> None:
    with listening() as other:
        recorded = other
    assert book.claim("a", [Wish("s/http", free, recorded)], never) == {"s/http": recorded}


def test_the_recorded_port_is_kept_while_the_stack_itself_listens(book: PortBook, free: int) -> None:
    with listening() as busy:
        assert book.claim("a", [Wish("s/http", free, busy)], lambda p: p == busy) == {"s/http": busy}


def test_the_recorded_port_is_given_up_when_a_stranger_listens(book: PortBook, free: int) -> None:
    with listening() as busy:
        assert book.claim("a", [Wish("s/http", free, busy)], never) == {"s/http": free}


def test_a_new_service_cannot_take_the_recorded_port_of_another(book: PortBook, free: int) -> None:
    chosen = book.claim("a", [Wish("new/http", free), Wish("old/http", free, free)], never)
    assert chosen["old/http"] == free
    assert chosen["new/http"] != free


def test_services_that_prefer_one_port_get_different_ones(book: PortBook, free: int) -> None:
    chosen = book.claim("a", [Wish(f"s/{n}", free) for n in range(4)], never)
    assert len(set(chosen.values())) == 4


def test_the_claims_of_a_stopped_stack_are_respected(book: PortBook, free: int) -> None:
    book.claim("a", [Wish("s/http", free)], never)
    assert book.claim("b", [Wish("s/http", free)], never)["s/http"] != free
    assert book.claim("a", [Wish("s/http", free, free)], never) == {"s/http": free}


def test_dropped_claims_and_those_of_stacks_that_are_gone_are_free(book: PortBook, free: int) -> None:
    book.claim("gone", [Wish("s/http", free)], never)
    assert book.claim("b", [Wish("s/http", free)], never) == {"s/http": free}
    book.drop("b")
    assert book.claim("c", [Wish("s/http", free)], never) == {"s/http": free}


def test_some_ports_can_be_dropped(book: PortBook) -> None:
    chosen = book.claim("a", [Wish("s/one", 0), Wish("s/two", 0)], never)
    book.drop("a", [chosen["s/one"]])
    assert book.held("a") == (chosen["s/two"],)


def test_no_file_is_left_without_claims(book: PortBook, tmp_path: Path) -> None:
    book.drop("a")
    assert list(tmp_path.iterdir()) == []
    book.claim("a", [Wish("s/http", 0)], never)
    book.drop("a")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_book_is_started_anew(book: PortBook, tmp_path: Path, free: int) -> None:
    (tmp_path / "ports.json").write_text("{")
    assert book.claim("a", [Wish("s/http", free)], never) == {"s/http": free}
    assert msgspec.json.decode((tmp_path / "ports.json").read_bytes()) == {str(free): "a"}


def test_stacks_that_claim_at_once_never_share_a_port(tmp_path: Path, free: int) -> None:
    path = tmp_path / "ports.json"
    claimers = [
        subprocess.Popen([sys.executable, "-c", CLAIM, path, f"stack{n}", str(free)], stdout=subprocess.PIPE)
        for n in range(4)
    ]
    assert [c.wait() for c in claimers] == [0, 0, 0, 0]
    for claimer in claimers:
        assert claimer.stdout is not None
        claimer.stdout.close()
    claims = msgspec.json.decode(path.read_bytes(), type=dict[int, str])
    assert len(claims) == 20
    assert {f"stack{n}": 5 for n in range(4)} == {s: list(claims.values()).count(s) for s in claims.values()}
