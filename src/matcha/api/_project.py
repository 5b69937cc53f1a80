"""A project: its stack file, the components it names, and the target they run on."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from matcha import __version__, planning, registry, spec
from matcha.access import Access
from matcha.api import _locks
from matcha.component import Component, Deployment, ModelRegistry, ModelServer, Monitor, services_of
from matcha.errors import BadInput, MatchaError, NotProvisioned
from matcha.service import Environment, Service
from matcha.state import State
from matcha.target import Bounding, Lending, StateStore, Target

Folder = Path | str
MOST_LISTED = 12


class Project:
    """Opened once per API call; reads the state whenever it is asked, never caches it.

    `by_record`: what it is to be is not known, as its file is not understood.
    """

    def __init__(self, root: Path, stack: spec.Stack, target: Target, *, by_record: bool = False) -> None:
        self.root = root
        self.stack = stack
        self.target = target
        self.by_record = by_record
        if isinstance(target, Lending):
            target.lend(planning.lent(self.components))

    @property
    def components(self) -> Sequence[Component]:
        return tuple(self.stack.components.values())

    @cached_property
    def store(self) -> StateStore:
        return self.target.store()

    def state(self) -> State:
        """Raises NotProvisioned where the stack was never provisioned, or its record is lost."""
        state = self.store.read()
        if state is None:
            raise self._unknown()
        return state

    def lacking(self, error: NotProvisioned) -> NotProvisioned:
        """`error`, of a part of the stack. Where the stack was made, its plan tells what became of the part:
        a provision may be refused.
        """
        state = self.store.read()
        if state is not None and state.phase == "ready":
            error.resolution = "matcha plan"
        return error

    def _unknown(self) -> NotProvisioned:
        """Says what is there of a stack whose record is not; of one that was destroyed that is its data."""
        left: Sequence[str] = ()
        kept: Sequence[str] = ()
        with contextlib.suppress(MatchaError):
            left = self.target.belongings(delete_data=False)
            kept = self.target.kept()
        if left:
            told = [_listed(left, "matcha provision takes them over; matcha destroy removes them.")]
            told += [_listed(kept, "matcha destroy --delete-data removes it.")] if kept else []
            return NotProvisioned(
                "The record of this project's stack is gone, and parts of the stack are still here.",
                details="\n".join(told),
            )
        if kept:
            then = "matcha provision goes on with it; matcha destroy --delete-data removes it."
            return NotProvisioned("The stack was destroyed, and its data kept.", details=_listed(kept, then))
        return NotProvisioned()

    def new_state(self) -> State:
        return State(
            stack_id=uuid.uuid4().hex,
            stack=self.stack.name,
            target=self.target.name,
            matcha_version=__version__,
        )

    def access(self) -> Access:
        return self.target.access(self.state())

    def wanted(self, state: State | None, kept: planning.Wanted | None = None) -> planning.Wanted:
        """`kept`: whose services stay beside those that `state` asks for."""
        deployments = self.deployments(state)
        found = {e.name: e for e in self._model_environments(state, deployments)}
        if kept:
            own = {e.name for c in self.components for e in c.environments()}
            found = {e.name: e for e in kept.environments if e.name not in own} | found
        return planning.want(
            self.components,
            deployments,
            tuple(found.values()),
            self.target.foundations,
            apart=self._apart,
            kept=kept.services if kept else (),
        )

    def services_of(self, component: Component, deployments: Sequence[Deployment]) -> tuple[Service, ...]:
        """Those of a component that run on this target."""
        return services_of(component, deployments, apart=self._apart)

    @property
    def _apart(self) -> bool:
        return isinstance(self.target, Bounding)

    def deployments(self, state: State | None) -> tuple[Deployment, ...]:
        """Deployments of the record, with the settings that `models:` writes for them on top."""
        recorded = state.deployments.values() if state else ()
        return tuple(self.with_settings(d) for d in recorded)

    def with_settings(self, deployment: Deployment) -> Deployment:
        chosen = self.stack.models.get(deployment.name)
        if chosen is None:
            return deployment
        return msgspec.structs.replace(
            deployment,
            settings={**deployment.settings, **chosen.written()},
            dedicated=deployment.dedicated or chosen.dedicated,
        )

    def _model_environments(
        self, state: State | None, deployments: Sequence[Deployment]
    ) -> tuple[Environment, ...]:
        if state is None:
            return ()
        found: dict[str, Environment] = {}
        for deployment in deployments:
            if deployment.environment:
                found[deployment.environment] = self.model_environment(state, deployment)
        return tuple(found.values())

    def model_environment(self, state: State, deployment: Deployment) -> Environment:
        lock = _locks.lock(self.target, state, deployment.environment)
        return self.server.model_environment(deployment.environment, lock, deployment.python)

    @property
    def server(self) -> ModelServer:
        found: ModelServer = self._capable(ModelServer, "model-deployer")
        return found

    @property
    def registry(self) -> ModelRegistry:
        found: ModelRegistry = self._capable(ModelRegistry, "experiment-tracker")
        return found

    @property
    def monitor(self) -> Monitor:
        found: Monitor = self._capable(Monitor, "monitoring")
        return found

    def _capable(self, kind: Any, role: str) -> Any:
        for component in self.components:
            if isinstance(component, kind):
                return component
        raise BadInput(
            f"This stack has no {role}.", resolution=f"Add {role} under components: in {spec.FILE}."
        )


def _listed(things: Sequence[str], then: str) -> str:
    more = [f"and {len(things) - MOST_LISTED} more"] if len(things) > MOST_LISTED else []
    return "\n".join((*things[:MOST_LISTED], *more, then))


def open_project(project: Folder, target: str | None) -> Project:
    """Raises StackFileError or BadInput for what is not understood, before anything is touched."""
    root = Path(project).resolve()
    if not root.is_dir():
        raise BadInput(f"{root} is not a folder.", resolution="Name the project's folder.")
    stack = _load(root, target)
    cls = registry.target_class(stack.target)
    options = spec.target_options(root, stack.target, stack.targets.get(stack.target, {}), cls.Options)
    return Project(root, stack, cls(root, options))


def _load(root: Path, target: str | None) -> spec.Stack:
    try:
        return spec.load(root, registry.component_catalogue(), registry.target_names(), target)
    except BadInput:  # it may name something of another package, which costs time to look for
        catalogue: Mapping[str, Any] = registry.component_catalogue(third_party=True)
        return spec.load(root, catalogue, registry.target_names(third_party=True), target)
