"""What a step's `ResourceSettings` ask for, as jobs do. Pure."""

from __future__ import annotations

import re
from typing import Any


def demand(settings: Any) -> dict[str, Any]:
    """Of what was set alone: `gpu`, `cpu` and `memory` of a job."""
    found = {
        "gpu": settings.gpu_count,
        "cpu": settings.cpu_count,
        "memory": memory(settings.memory) if settings.memory else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def memory(text: str) -> str:
    """ZenML's `16GB` and `8GiB` are `16G` and `8Gi` of Kubernetes."""
    match = re.fullmatch(r"(\d+)([KMGTP]?i?)B", text)
    assert match, text  # ZenML has checked it
    number, unit = int(match[1]), match[2]
    return f"{number * (1024 if 'i' in unit else 1000)}T{unit[1:]}" if unit[:1] == "P" else f"{number}{unit}"
