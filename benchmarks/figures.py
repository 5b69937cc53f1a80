"""What a benchmark hands back: figures of interleaved rounds, and the budget they are held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Kind = Literal["ratio", "difference", "value"]
Limit = Literal["<", "<=", ">="]


@dataclass(frozen=True)
class Budget:
    """What must hold of the ratio Matcha / bare, of the difference, or of Matcha's own value."""

    kind: Kind
    limit: Limit
    than: float

    def met_by(self, figure: float) -> bool:
        if self.limit == "<":
            return figure < self.than
        return figure <= self.than if self.limit == "<=" else figure >= self.than


@dataclass(frozen=True)
class Row:
    """One line of the table. `ours[i]` and `bare[i]` come from the same round; `bare` may be empty.

    Without a budget it is there to be compared with others.
    """

    subject: str
    what: str
    unit: str
    ours: tuple[float, ...]
    bare: tuple[float, ...] = ()
    budget: Budget | None = None

    @property
    def ratio(self) -> float:
        """Median of the rounds' own ratios: both sides of a round met the same weather."""
        return median(a / b for a, b in zip(self.ours, self.bare, strict=True))

    @property
    def figure(self) -> float:
        """What the budget is about."""
        if self.budget is None or self.budget.kind == "value":
            return median(self.ours)
        if self.budget.kind == "ratio":
            return self.ratio
        return median(a - b for a, b in zip(self.ours, self.bare, strict=True))

    @property
    def met(self) -> bool | None:
        return self.budget.met_by(self.figure) if self.budget else None


@dataclass(frozen=True)
class Asked:
    """What a run was asked for. `say` shows progress, `calm` is called before every turn."""

    rounds: int
    say: Callable[[str], None]
    calm: Callable[[], None]

    def take_turns(self, sides: Sequence[Callable[[], None]]) -> None:
        """Every side once a round; who begins changes with the rounds."""
        for number in range(self.rounds):
            self.say(f"round {number + 1} of {self.rounds}")
            for side in sides if number % 2 == 0 else reversed(sides):
                self.calm()
                side()
