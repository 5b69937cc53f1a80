"""Matcha's version, for whoever may not import all of Matcha to learn it."""

from __future__ import annotations

__version__ = "0.1.0"
