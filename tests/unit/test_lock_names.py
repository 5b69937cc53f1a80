"""What others are told that is done to a stack."""

from __future__ import annotations

from pathlib import Path

from matcha import api
from matcha.events import Event


def test_the_lock_says_what_it_is_held_for(tmp_path: Path, user_folders: Path) -> None:
    others = "pipeline: null, model-deployer: null, monitoring: null"
    (tmp_path / "matcha.yaml").write_text(f"target: fake\ncomponents: {{{others}}}\n")
    held: set[str] = set()

    def look(_: Event) -> None:
        held.add(api.status(tmp_path).lock.partition(" (")[2])

    def holders() -> set[str]:
        found = held - {""}
        held.clear()
        return found

    api.provision(tmp_path, emit=look)
    assert holders() == {"provision)"}
    api.stop(tmp_path)
    api.start(tmp_path, emit=look)
    assert holders() == {"start)"}
