"""Every error says what to do next."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import matcha
from matcha.errors import MatchaError, NotProvisioned, NotServed
from matcha.targets.kubernetes.refusals import ClusterError, Conflict, Forbidden, Gone

SOURCE = Path(matcha.__file__).parent
OWN = (NotProvisioned, NotServed, ClusterError, Conflict, Forbidden, Gone)
NEXT_OF_THEIR_OWN = {error.__name__ for error in OWN}


def modules() -> Iterator[tuple[Path, ast.Module]]:
    """All but what runs inside the tools' environments, which knows no MatchaError."""
    for path in sorted(SOURCE.rglob("*.py")):
        if "inside" not in path.parts:
            yield path, ast.parse(path.read_text())


def errors() -> set[str]:
    """MatchaError and what derives from it, by name."""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for _, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found, before = {MatchaError.__name__}, 0
    while len(found) > before:
        before = len(found)
        found |= {name for name, of in bases.items() if of & found}
    return found


def test_each_is_made_with_a_resolution() -> None:
    wanted = errors() - NEXT_OF_THEIR_OWN
    made = [
        (f"{path.relative_to(SOURCE)}:{node.lineno}", {keyword.arg for keyword in node.keywords})
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in wanted
    ]
    assert len(made) > 100
    assert [place for place, given in made if "resolution" not in given] == []
