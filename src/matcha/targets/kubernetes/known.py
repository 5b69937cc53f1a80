"""Which stack the target has to do with: as it was given to this object, or as its record has it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

from lightkube.resources.core_v1 import PersistentVolumeClaim

from matcha.access import Access
from matcha.errors import BadInput, NotProvisioned, Unfit
from matcha.host.ports import refuse_unknown
from matcha.service import Environment, Service
from matcha.state import State
from matcha.targets.kubernetes import desired, facts, keys, proof, removal
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.described import lent, recorded
from matcha.targets.kubernetes.fencing import Fenced
from matcha.targets.kubernetes.here import Here
from matcha.targets.kubernetes.names import STORE
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.raising import Raiser
from matcha.targets.kubernetes.secrets import Secrets
from matcha.targets.kubernetes.setting import Setting, setting
from matcha.targets.kubernetes.store import ClusterStore


class KnownStack:
    """That of the namespace which `options` name, with what is known of it so far."""

    name: ClassVar[str] = "kubernetes"

    def __init__(self, project: Path, options: KubernetesOptions | None = None) -> None:
        self._project = project.resolve()
        self._options = options or KubernetesOptions()
        self._cluster = Cluster(self._options)
        self._writing = Fenced(self._cluster, self._fence)
        self._secrets = Secrets(self._writing)
        self._insist = False
        self._mine: set[desired.Ref] = set()  # objects that were seen with Matcha's label
        self._former: list[str] = []  # volumes that were seen without a record
        self._setting: Setting | None = None
        self._reads_secrets = True
        self._relied = keys.Relied()
        self._proof = proof.Proof()
        self._loose = False  # the namespace, as in `look.Found`
        self._here = Here(self._project, self._options)
        self._lent: tuple[str, ...] = ()

    def lend(self, areas: Sequence[str]) -> None:
        """`matcha.target.Lending`."""
        self._lent = tuple(areas)

    @cached_property
    def _store(self) -> ClusterStore:
        return ClusterStore(self._cluster, last=partial(removal.tidy, self._cluster))

    @cached_property
    def _trust(self) -> str:
        """Raises BadInput for a file that is none of certificates any more."""
        try:
            return self._options.trust(self._project)
        except Unfit as error:
            raise BadInput(
                f"targets.kubernetes.{error}", resolution="Change it in matcha.yaml, then run the same again."
            ) from error

    def _fence(self) -> None:
        self._store.fence()

    def access(self, state: State) -> Access:
        found = self._setting or self._remembered(state)
        return self._here.access(state, found, self._secrets)

    def _place(self, foundation: str) -> str:
        """Of its volume, or of the store that is used in its place."""
        claim = self._cluster.get(PersistentVolumeClaim, foundation)
        return facts.stored(claim, self._known().storage) if foundation == STORE else facts.place(claim)

    def _set(self, services: Sequence[Service], environments: Sequence[Environment]) -> Setting:
        self._setting = self._render(services, environments)
        return self._setting

    def _render(self, services: Sequence[Service], environments: Sequence[Environment]) -> Setting:
        refuse_unknown(f"targets.{self.name}.ports", self._options.ports, services)
        return setting(self._options, services, environments, self._trust, self._lent)

    def _known(self) -> Setting:
        """As given to this object, otherwise as the run that began it recorded it."""
        if self._setting is None:
            self._setting = self._remembered(self._state(), self._trust)
        return self._setting

    def _state(self) -> State:
        """Raises NotProvisioned where nothing is recorded."""
        state = self._store.read()
        if state is None:
            raise NotProvisioned
        return state

    def _raiser(self) -> Raiser:
        return Raiser(self._cluster, self._store.fence, insist=self._insist, mine=self._mine)

    def _remembered(self, state: State, trust: str = "") -> Setting:
        """From the record, for commands that only look; `trust` is for what is made by it."""
        kept = recorded(state.facts)
        if kept is None:
            raise NotProvisioned
        return setting(self._options, *kept, trust, lent(state.facts))
