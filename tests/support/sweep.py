"""Tests of which a sample runs by default, and all by `-m sweep`."""

from __future__ import annotations

import pytest


def is_whole(config: pytest.Config) -> bool:
    return bool(config.getoption("markexpr") == "sweep")
