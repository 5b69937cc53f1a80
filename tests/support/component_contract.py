"""The life of one component on one target, from nothing to nothing, through everything in between.

`live_through` is for targets and components of your own too: it asks nothing of either but their contracts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import msgspec

import matcha
from matcha import registry
from matcha.access import Output
from matcha.api._project import Project, open_project
from matcha.component import Component
from matcha.errors import MatchaError, NotProvisioned
from matcha.planning import Plan, Wanted

CATALOGUE = registry.component_catalogue()
COMPONENTS = [cls for flavors in CATALOGUE.values() for cls in flavors.values()]


class Place(Protocol):
    """An empty project for one target."""

    project: Path
    target: str
    settings: str  # lines of the stack file besides `target` and `components`
    answers: bool  # whether what is started answers; a set-up that asks it fails where it does not

    def mark(self, wanted: Wanted) -> None:
        """Leave something in every volume, database and store of the stack."""

    def unmarked(self, wanted: Wanted) -> Sequence[str]:
        """Where what was left is no more."""

    def kill(self, service: str) -> None:
        """End the service's process without a word."""

    def left(self) -> Sequence[str]:
        """What is there of the stack, found without asking Matcha."""


def live_through(place: Place, cls: type[Component]) -> None:
    """Fails the test where the component, with those it requires, does not keep the contract in `place`."""
    life = Life(place, cls)
    life.is_planned_from_nothing()
    life.is_provisioned()
    life.tells_what_it_has()
    place.mark(life.wanted)
    life.needs_nothing_more()
    life.survives_a_kill()
    life.survives_a_pause()
    life.is_taken_out()
    life.is_destroyed()


def with_required(cls: type[Component]) -> dict[str, str]:
    """Role to flavor, of `cls` and all that it requires."""
    found: dict[str, str] = {}
    for role in cls.requires:
        found |= with_required(next(iter(CATALOGUE[role].values())))
    return {**found, cls.role: cls.flavor}


class Life:
    def __init__(self, place: Place, cls: type[Component]) -> None:
        self.place = place
        self.cls = cls
        self._write(with_required(cls))

    def _write(self, kept: dict[str, str]) -> None:
        roles = "".join(f"  {role}: {kept.get(role, 'null')}\n" for role in CATALOGUE)
        text = f"target: {self.place.target}\ncomponents:\n{roles}{self.place.settings}"
        (self.place.project / "matcha.yaml").write_text(text)

    @property
    def opened(self) -> Project:
        return open_project(self.place.project, None)

    @cached_property
    def wanted(self) -> Wanted:
        return self.opened.wanted(None)

    @property
    def unreachable(self) -> set[str]:
        """Steps that need a server that answers, where there is none."""
        asking = [c for c in self.opened.components if c.setup_digest()]
        return set() if self.place.answers else {f"setup/{c.role}" for c in asking}

    def provision(self) -> None:
        """Until nothing is left to do but what nobody can do here."""
        try:
            matcha.provision(self.place.project)
        except MatchaError as error:
            assert self.unreachable, error
            assert error.resolution
        assert {step.key for step in self.plan().steps} == self.unreachable

    def plan(self) -> Plan:
        return matcha.plan(self.place.project)

    # what it lives through

    def is_planned_from_nothing(self) -> None:
        wanted = {r.key for r in self.wanted.resources if r.key != "deployments"}
        assert {step.key for step in self.plan().steps} >= wanted
        assert {step.action for step in self.plan().steps} == {"create"}
        assert list(self.place.left()) == [], "a plan only reads"

    def is_provisioned(self) -> None:
        self.provision()
        self.is_well()

    def is_well(self) -> None:
        found = matcha.status(self.place.project)
        assert {c.role for c in found.components if c.healthy} == {c.role for c in self.opened.components}
        assert found.healthy == (not self.unreachable)

    def tells_what_it_has(self) -> None:
        found = self.outputs()
        resources = {self.cls.role, *self.cls.also}
        assert resources <= set(found)
        assert found[self.cls.role]["flavor"].value == self.cls.flavor
        shown = [output for resource in resources for output in found[resource].values()]
        shown += self.variables().values()
        assert all(output.value for output in shown)
        assert all(re.fullmatch(r"[A-Z][A-Z0-9_]*", name) for name in self.variables())
        self.hides_its_secrets(shown)

    def hides_its_secrets(self, shown: Sequence[Output]) -> None:
        state = self.opened.state()
        access = self.opened.target.access(state)
        secrets = [access.secret(name) for name in self.wanted.secrets]
        for secret in secrets:
            assert not [o for o in shown if secret in o.value and not o.sensitive]
            assert secret.encode() not in msgspec.json.encode(state)

    def outputs(self) -> dict[str, dict[str, Output]]:
        return matcha.get(project=self.place.project)

    def variables(self) -> dict[str, Output]:
        """None before the set-ups that make them."""
        try:
            return dict(matcha.env(self.place.project))
        except NotProvisioned:
            assert self.unreachable
            return {}

    def needs_nothing_more(self) -> None:
        before = self._facts()
        if not self.unreachable:
            assert matcha.provision(self.place.project).changed is False
        assert self._facts() == before

    def survives_a_kill(self) -> None:
        before = self._facts()
        for service in self.wanted.services:
            self.place.kill(service.name)
        self.provision()
        self.is_well()
        assert self._facts() == before

    def survives_a_pause(self) -> None:
        before = self._facts()
        for _ in range(2):
            matcha.stop(self.place.project)
            found = matcha.status(self.place.project)
            assert (found.phase, found.healthy) == ("stopped", False)
            assert {c.condition for c in found.components} <= {"stopped", "present"}
        self.provision() if self.unreachable else matcha.start(self.place.project)
        self.is_well()
        assert self._facts() == before

    def _facts(self) -> Any:
        """What no restart may change: addresses, keys, and data."""
        assert list(self.place.unmarked(self.wanted)) == []
        return self.outputs(), self.variables()

    def is_taken_out(self) -> None:
        own = {s.name for s in self.opened.services_of(self.cls(self.cls.Options()), ())}
        self._write(
            {role: flavor for role, flavor in with_required(self.cls).items() if role != self.cls.role}
        )
        removals = {step.key for step in self.plan().steps if step.action == "remove"}
        assert removals >= {f"service/{name}" for name in own}
        self.provision()
        assert self.cls.role not in self.outputs()
        state = self.opened.state()
        assert own.isdisjoint(fact.name for fact in self.opened.target.status(state))
        self.is_well()

    def is_destroyed(self) -> None:
        done = matcha.destroy(self.place.project, delete_data=True)
        assert done.removed
        assert list(self.place.left()) == []
        assert matcha.destroy(self.place.project, delete_data=True).nothing
