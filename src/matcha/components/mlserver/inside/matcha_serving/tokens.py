"""Bearer tokens of applications: which there are, whether one is right, and how often it may ask.

A token is `matcha_<id>_<secret>`. Kept is the SHA-256 digest of all of it: its secret is 256 random bits,
which nobody finds by trying. Pure; `clock` counts seconds and never goes back, `now` is Unix time.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ID, SECRET = r"[0-9a-f]{12}", r"[0-9a-f]{64}"
SHAPE = re.compile(rf"matcha_({ID})_{SECRET}")
LONGEST = 200  # characters of an Authorization header
NOBODY = "0" * 64  # compared with where there is no such id, for the same work
MOST_CLIENTS = 4096  # whose failures are counted at once
FAILURES = 1.0, 20.0  # a second and at once, of one client address
BURST_SECONDS = 2.0  # of its rate, which a token may use at once


class Unreadable(ValueError):
    """A list of tokens that is none."""


@dataclass(frozen=True)
class Token:
    """`models`: names that it may ask; none for all. `expires`: Unix time; 0 for never."""

    id: str
    digest: str
    models: frozenset[str]
    expires: float

    def may(self, model: str) -> bool:
        return not self.models or model in self.models


@dataclass(frozen=True)
class Listed:
    """`serial` rises with every change, so that an older list never takes the place of a newer one."""

    serial: int
    tokens: Mapping[str, Token]


def listed(text: str | bytes) -> Listed:
    """Raises Unreadable."""
    try:
        found = json.loads(text)
        tokens = [_token(each) for each in found["tokens"]]
        return Listed(int(found["serial"]), {token.id: token for token in tokens})
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable("the list of tokens cannot be read") from error


def _token(record: Mapping[str, Any]) -> Token:
    digest = str(record["digest"])
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(digest)
    models = frozenset(str(name) for name in record.get("models") or ())
    return Token(str(record["id"]), digest, models, float(record.get("expires") or 0))


class Tokens:
    """Those that are good now."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._listed = Listed(0, {})
        self._now = now

    @property
    def serial(self) -> int:
        return self._listed.serial

    def take(self, found: Listed) -> bool:
        """Whether it is newer than what was known."""
        newer = found.serial > self._listed.serial
        if newer:
            self._listed = found
        return newer

    def drop(self) -> None:
        """None is good any more, whatever list comes next."""
        self._listed = Listed(0, {})

    def right(self, authorization: str) -> Token | None:
        """The token of a header `Bearer matcha_...`; None for whatever else it says."""
        scheme, _, said = ("" if len(authorization) > LONGEST else authorization).partition(" ")
        text = said.strip() if scheme.lower() == "bearer" else ""
        shape = SHAPE.fullmatch(text)
        token = self._listed.tokens.get(shape[1] if shape else "")
        digest = hashlib.sha256(text.encode()).hexdigest()
        same = hmac.compare_digest(digest, token.digest if token else NOBODY)
        if token is None or not same or 0 < token.expires <= self._now():
            return None
        return token


class Buckets:
    """How often each of many may do something: `rate` a second, `burst` at once. Of more than `most` those
    that were heard of last are known.
    """

    def __init__(
        self,
        rate: float,
        burst: float,
        most: int = MOST_CLIENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, name: str) -> float:
        """0 where it may, which is counted; otherwise the seconds until it may."""
        now = self._clock()
        left, at = self._left.get(name, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        may = left >= 1
        self._left[name] = (left - 1 if may else left, now)
        self._left.move_to_end(name)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return 0.0 if may else (1 - left) / self._rate
