"""Runs that change the record and the lock of one stack, as `store_transitions.yaml` tells it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ruamel.yaml import YAML

from matcha.errors import Locked
from matcha.events import silent
from matcha.state import State
from matcha.target import LockInfo, StateStore, Target

TRANSITIONS = YAML(typ="safe").load((Path(__file__).parent / "store_transitions.yaml").read_text())


class Runs:
    """Several runs at one stack, each with its own store object, that do what a transition says."""

    def __init__(self, target: Callable[[], Target]) -> None:
        """`target` is a new object each time."""
        self._target = target
        self._stores: dict[str, StateStore] = {}
        self._tokens: dict[str, str] = {}

    def do(self, step: str) -> str:
        """The outcome of `run verb [argument]`."""
        run, verb, *arguments = step.split()
        self._stores.setdefault(run, self._target().store())
        try:
            return getattr(self, f"_{verb}")(run, *arguments) or "done"
        except Locked:
            return "Locked"

    def _acquire(self, run: str, operation: str) -> None:
        self._tokens[run] = self._stores[run].acquire(operation, wait=0, emit=silent).token

    def _release(self, run: str) -> None:
        self._stores[run].release(self._tokens.get(run, ""))

    def _renew(self, run: str) -> None:
        self._stores[run].renew(self._tokens.get(run, ""))

    def _write(self, run: str, phase: str) -> None:
        state = State(stack_id="0" * 32, stack="default", target=self._target().name, phase=phase)
        self._stores[run].write(state, self._tokens.get(run, ""))

    def _delete(self, run: str) -> None:
        self._stores[run].delete(self._tokens.get(run, ""))

    def _read(self, run: str) -> str:
        state = self._stores[run].read()
        return state.phase if state else "nothing"

    def _lock(self, run: str) -> str:
        return self._operation(self._stores[run].lock())

    def _break(self, run: str) -> str:
        return self._operation(self._stores[run].break_lock())

    def _operation(self, lock: LockInfo | None) -> str:
        return lock.operation if lock else "nothing"
