"""What is told while a deployment is tried."""

from __future__ import annotations

import queue

import pytest

from matcha.api import _switching
from matcha.component import Deployment
from matcha.events import Event

MODEL = Deployment(name="big", asked="models:/big/1", uri="models:/big/1", model="big", version="1")


def test_a_model_that_takes_long_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_switching, "TELL_EVERY", 0.01)
    events: queue.Queue[Event] = queue.Queue()
    with _switching.telling(MODEL, events.put):
        first, second = (events.get(timeout=60) for _ in range(2))
    assert "loading models:/big/1 (0 s)" in first.message
    assert (first.subject, first.phase) == ("deployment", "progress")
    assert 0 < first.elapsed < second.elapsed
