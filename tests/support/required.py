"""What a test needs and this machine lacks."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def lacking(reason: str) -> NoReturn:
    """A visible skip on a contributor's machine; a failure where everything is to run."""
    if os.environ.get("MATCHA_REQUIRE_ALL"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
