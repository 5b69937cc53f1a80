"""Numbers as people read them. Pure."""

from __future__ import annotations

PLAIN_BELOW = 1e5  # larger numbers are written with an exponent


def duration(seconds: float) -> str:
    """`0.4s`, `12.3s`, `1m 05s`, `2h 03m`, `4d 01h`."""
    if seconds < 59.95:
        return f"{max(seconds, 0.0):.1f}s"
    whole = round(seconds)
    for unit, per, smaller, size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= per:
            return f"{whole // per}{unit} {whole % per // size:02d}{smaller}"
    return f"{whole}s"


def size(count: int) -> str:
    """Bytes in decimal units: `0 B`, `216 MB`, `1.4 GB`; empty where unknown (negative)."""
    if count < 0:
        return ""
    amount, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 999.5 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.1f} {unit}" if unit in ("GB", "TB") else f"{amount:.0f} {unit}"


def number(value: float) -> str:
    """`0.200`, `12345.678`, `1.00e+305`."""
    return f"{value:.3f}" if abs(value) < PLAIN_BELOW else f"{value:.2e}"


def plural(count: int, what: str) -> str:
    """`1 step`, `3 steps`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def joined(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
