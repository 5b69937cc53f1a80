"""The Secret of tokens as pods of exposed services have it. Pure."""

from __future__ import annotations

from lightkube.models.core_v1 import KeyToPath, SecretVolumeSource, Volume

NAME = "matcha-tokens"
KEY = "tokens.json"
FOLDER = "/matcha/outside"
VOLUME = "outside"


def volume() -> Volume:
    """Empty while there are no tokens."""
    items = [KeyToPath(key=KEY, path=KEY)]
    return Volume(name=VOLUME, secret=SecretVolumeSource(secretName=NAME, items=items, optional=True))
