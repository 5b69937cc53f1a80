"""Captures on their way: bounded, counted, and never lost to a receiver that comes back."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from matcha.components.mlserver.inside.matcha_serving import capture
from matcha.components.mlserver.inside.matcha_serving.capture import Capture
from support.listening import Handler, Listening


class Receiver(Listening):
    """Takes batches; answers with `status`, which a test may change."""

    def __init__(self, port: int = 0) -> None:
        self.status = 202
        self.lines: list[bytes] = []
        self.batches: list[str] = []
        self.dropped = 0
        receiver = self

        class Batches(Handler):
            def do_POST(self) -> None:
                raw = self.body()
                receiver.batches.append(self.headers["X-Matcha-Batch"])
                receiver.dropped = int(self.headers["X-Matcha-Dropped"])
                if receiver.status < 300:
                    receiver.lines += raw.splitlines()
                self.answer(receiver.status)

        super().__init__(Batches, port)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is handed on but by a full batch, a flush or the end."""
    monkeypatch.setattr(capture, "EVERY", 3600.0)


@pytest.fixture
def make() -> Iterator[Callable[..., Capture]]:
    made: list[Capture] = []

    def make(url: str, **bounds: int) -> Capture:
        made.append(Capture(url, "secret", **bounds))
        return made[-1]

    yield make
    for one in made:
        one.close(5)


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def eventually(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_lines_arrive_whole_and_in_order(make: Callable[..., Capture], receiver: Receiver) -> None:
    sender = make(receiver.url)
    lines = [b'{"n": %d}' % n for n in range(1200)]
    for line in lines:
        sender.put(line)
    eventually(lambda: len(receiver.lines) == len(lines))
    assert receiver.lines == lines
    assert len(receiver.batches) >= 3


@pytest.mark.usefixtures("patient")
def test_what_does_not_fit_is_dropped_and_counted(make: Callable[..., Capture]) -> None:
    sender = make(f"http://127.0.0.1:{closed_port()}", max_lines=5, max_bytes=100)
    for _ in range(7):
        sender.put(b"x")
    assert sender.dropped == 2
    wide = make(f"http://127.0.0.1:{closed_port()}", max_bytes=100)
    wide.put(b"x" * 60)
    wide.put(b"x" * 60)
    wide.put(b"x" * capture.MAX_LINE + b"x")
    assert wide.dropped == 2


@pytest.mark.usefixtures("patient")
def test_the_receiver_hears_what_was_dropped(make: Callable[..., Capture], receiver: Receiver) -> None:
    sender = make(receiver.url, max_lines=1)
    for _ in range(4):
        sender.put(b"x")
    assert sender.flush(60)
    assert receiver.lines == [b"x"]
    assert receiver.dropped == 3


def test_a_batch_is_kept_until_it_is_taken(make: Callable[..., Capture], receiver: Receiver) -> None:
    receiver.status = 503
    sender = make(receiver.url)
    sender.put(b"kept")
    eventually(lambda: len(receiver.batches) >= 2)
    receiver.status = 202
    eventually(lambda: receiver.lines == [b"kept"])
    assert len(set(receiver.batches)) == 1, "the same batch bears the same id"
    assert sender.dropped == 0


def test_a_batch_that_is_never_taken_is_given_up(make: Callable[..., Capture], receiver: Receiver) -> None:
    receiver.status = 422
    sender = make(receiver.url)
    sender.put(b"bad")
    eventually(lambda: sender.dropped == 1)
    receiver.status = 202
    sender.put(b"good")
    eventually(lambda: receiver.lines == [b"good"])


def test_a_receiver_that_starts_later(make: Callable[..., Capture]) -> None:
    port = closed_port()
    sender = make(f"http://127.0.0.1:{port}")
    with socket.create_server(("127.0.0.1", port)) as deaf:
        sender.put(b"early")
        deaf.settimeout(60)
        deaf.accept()[0].close()  # the first attempt
    late = Receiver(port)
    try:
        eventually(lambda: late.lines == [b"early"])
    finally:
        late.close()


@pytest.mark.usefixtures("patient")
def test_the_end_hands_on_what_is_left(make: Callable[..., Capture], receiver: Receiver) -> None:
    sender = make(receiver.url)
    sender.put(b"last")
    sender.close(60)
    assert receiver.lines == [b"last"]


def test_a_flush_returns_when_all_has_arrived(make: Callable[..., Capture], receiver: Receiver) -> None:
    capture = make(receiver.url)
    lines = [b'{"n":%d}' % number for number in range(1200)]
    for line in lines:
        capture.put(line)
    assert capture.flush(10) is True
    assert receiver.lines == lines


def test_a_flush_gives_up_when_the_receiver_is_down(make: Callable[..., Capture]) -> None:
    capture = make(f"http://127.0.0.1:{closed_port()}")
    capture.put(b"{}")
    assert capture.flush(0.3) is False


@pytest.mark.usefixtures("patient")
def test_the_end_does_not_wait_for_a_receiver_that_is_down(make: Callable[..., Capture]) -> None:
    sender = make(f"http://127.0.0.1:{closed_port()}")
    sender.put(b"lost")
    began = time.monotonic()
    sender.close(300)
    assert time.monotonic() - began < 60
