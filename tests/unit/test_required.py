"""Suites that cannot run: skipped on a contributor's machine, failed where everything is to run."""

from __future__ import annotations

import pytest

from support.required import lacking


def test_what_is_lacking_is_a_skip_or_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MATCHA_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no Python"):
        lacking("no Python")
    monkeypatch.setenv("MATCHA_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="no Python"):
        lacking("no Python")
