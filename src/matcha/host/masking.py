"""Secrets in what programs print."""

from __future__ import annotations

from collections.abc import Iterable

MASK = "********"
SHORTEST = 8  # characters of a value that is looked for: shorter ones stand in ordinary words


def masked(lines: Iterable[str], values: Iterable[str]) -> list[str]:
    """`lines` with every one of `values` masked."""
    wanted = sorted((v for v in values if len(v) >= SHORTEST), key=len, reverse=True)
    return [_masked(line, wanted) for line in lines]


def _masked(line: str, values: list[str]) -> str:
    for value in values:
        line = line.replace(value, MASK)
    return line
