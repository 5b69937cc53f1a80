"""The kubernetes target: the stack as pods in one namespace of a cluster the user has a context for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import msgspec
from lightkube.resources.apps_v1 import StatefulSet
from lightkube.resources.core_v1 import ConfigMap

from matcha.component import Tokens
from matcha.errors import BadInput, MatchaError, StateUnreadable
from matcha.events import Emit, Event
from matcha.service import Environment, Service
from matcha.state import State
from matcha.target import Foundation, ServiceStatus, Snapshot
from matcha.targets.kubernetes import (
    archives,
    base,
    begun,
    code,
    desired,
    facts,
    foundations,
    going,
    keys,
    look,
    outside,
    proof,
    removal,
    rotation,
    scaling,
    space,
    statuses,
    unrecorded,
    volumes,
    workloads,
)
from matcha.targets.kubernetes.cluster import Forbidden
from matcha.targets.kubernetes.described import described, recorded
from matcha.targets.kubernetes.exposed import objects as exposing
from matcha.targets.kubernetes.exposed import tokens
from matcha.targets.kubernetes.jobs import priority
from matcha.targets.kubernetes.kubefiles import joined, kubefiles
from matcha.targets.kubernetes.logs import pod_lines
from matcha.targets.kubernetes.machines import hidden, machines
from matcha.targets.kubernetes.names import (
    BUCKET_CHECK,
    DATABASE,
    MANAGER,
    MINE,
    NAME,
    SHARED,
    STORE,
    TOUCHED,
    put_instance,
)
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.raising import MEND
from matcha.targets.kubernetes.setting import (
    Setting,
    made_by,
    setting,
    with_environment,
    with_service,
)
from matcha.targets.kubernetes.store import ClusterStore
from matcha.targets.kubernetes.training import Training

MADE_BY = "made-by"  # digest of what else the objects were rendered from
FOUNDATION_SECONDS = 360.0


class KubernetesTarget(Training):
    """`matcha.target.Target` for the namespace that `options` name."""

    keeps_data: ClassVar[bool] = True
    bounds_memory: ClassVar[bool] = True
    leads: ClassVar[tuple[str, ...]] = ("context", "kubeconfig", "namespace")
    Options: ClassVar[type[KubernetesOptions]] = KubernetesOptions

    def pinned(self) -> dict[str, Any]:
        """`matcha.target.Elsewhere`: another context or kubeconfig may be the usual one by then."""
        return {
            "context": self._cluster.config.context_name,
            "kubeconfig": joined(kubefiles(self._options.kubeconfig)),
            "namespace": self._options.namespace,
        }

    def store(self) -> ClusterStore:
        return self._store

    def insist(self) -> None:
        """Take over fields of objects that another manager applies as well."""
        self._insist = True

    # -- what is there ---------------------------------------------------------------------------------

    def observe(
        self,
        state: State | None,
        services: Sequence[Service],
        environments: Sequence[Environment] = (),
    ) -> Snapshot:
        found = self._set(services, environments)
        there = look.of_stack(self._cluster, rotation.names(found))
        self._mine |= set(there.objects)
        self._relied = keys.relied_on(found, state, there)
        self._secrets.refuse = self._relied.refuse
        self._reads_secrets, self._loose = there.held.is_open, there.loose
        if state is None:
            self._former = removal.volumes(there.objects.values())
        shown = look.snapshot(there, found, machines(self._cluster), state)
        lost = unrecorded.again(there) if state is None else ""
        ending = going.namespace(self._cluster, there.objects.values())
        unseen = [*hidden(self._cluster, environments), *([] if self._reads_secrets else [rotation.CLOSED])]
        notes = tuple(filter(None, (ending, lost, *shown.notes, *unseen)))
        resources = shown.resources if state else unrecorded.seen(shown.resources)
        return msgspec.structs.replace(shown, resources=resources, notes=notes)

    def foundations(
        self, services: Sequence[Service], environments: Sequence[Environment]
    ) -> Sequence[Foundation]:
        return desired.planned(self._render(services, environments))

    def manifests(
        self, services: Sequence[Service], environments: Sequence[Environment]
    ) -> Sequence[dict[str, Any]]:
        """Everything as it would be applied; asks no cluster. Values of secrets are placeholders."""
        found = self._render(services, environments)
        objects = desired.whole(found)
        values = desired.placeholders(objects, found.namespace)
        first = filter(None, [foundations.namespace(found.namespace), values])
        return [desired.document(obj, found.namespace) for obj in (*first, *objects)]

    def status(
        self, state: State, services: Sequence[Service] = (), environments: Sequence[Environment] = ()
    ) -> Sequence[ServiceStatus]:
        if recorded(state.facts) is None:
            return []
        wanted, comparable, trust = None, False, ""
        with contextlib.suppress(BadInput):  # a colleague may lack the certificates: then others' changes are
            trust = self._trust if services else ""  # not told
            comparable = bool(services) and state.facts.get(MADE_BY) == made_by(self._options, trust)
        if services:
            wanted = setting(self._options, services, environments, trust, self._lent)
        made, ports = self._remembered(state, trust), self._here.ports(state)
        return statuses.statuses(self._cluster, made, wanted, ports, comparable=comparable, state=state)

    def logs(self, service: str, *, lines: int, follow: bool) -> Iterator[str]:
        for line in pod_lines(self._cluster, service, lines, follow):
            yield from self._secrets.redact([line])

    def loud(self, state: State) -> Sequence[str]:
        """The foundations, and the Jobs that make things."""
        return desired.loud(self._remembered(state)) if recorded(state.facts) else ()

    # -- before the first step -------------------------------------------------------------------------

    def preflight(self, environments: Sequence[Environment], snapshot: Snapshot) -> Sequence[str]:
        """As `preflight.check` raises, and `preflight.notes`."""
        from matcha.targets.kubernetes import preflight  # noqa: PLC0415 - not for what only looks

        known = preflight.Known(
            setting=self._known(),
            snapshot=snapshot,
            mine=self._mine,
            former=self._former,
            reads_secrets=self._reads_secrets,
            relied=self._relied,
            loose=self._loose,
        )
        preflight.check(self._cluster, known, environments)
        return list(preflight.notes(self._cluster, known, environments, self._project))

    def begin(
        self, state: State, services: Sequence[Service], environments: Sequence[Environment] = ()
    ) -> State:
        self._set(services, environments)
        self._here.forget(state.stack_id)  # whose ports are this stack's
        ports = {f"{s.name}/{p.name}": p.preferred for s in services for p in s.ports}
        facts = described(services, environments, self._lent)
        facts[MADE_BY] = made_by(self._options, self._trust)
        return msgspec.structs.replace(state, ports=ports, facts={**state.facts, **facts})

    # -- the steps -------------------------------------------------------------------------------------

    def lay(self, foundation: str, emit: Emit) -> None:
        going.refuse(self._cluster, [foundation])
        found = self._known()
        raiser = self._raiser()
        key = f"foundation/{foundation}"
        if foundation == foundations.NETWORK:
            if self._loose and (refused := space.enforce(self._writing)):
                emit(Event(key, "note", refused))
            raiser.apply(desired.laid(found)[foundation])
            return
        if foundation == exposing.GATEWAY:
            raiser.apply(desired.laid(found)[foundation])
            self._wait_for_gateway(found, emit)
            return
        if foundation == BUCKET_CHECK:
            parts = [*desired.laid(found)[foundation], *desired.of_stack(found, outside.check(found))]
            made_from, where, advice = outside.digest(found), found.storage.url, outside.advice(found)
            self._bring_about(facts.BUCKET, key, parts, made_from, where, emit, advice)
            return
        if foundation == DATABASE:
            volumes.refuse_lost_key(self._cluster)
        self._secrets.ensure([*foundations.secret_names(found), rotation.KEY])
        raiser.apply(self._marked(desired.laid(found)[foundation]))
        raiser.wait(foundation, key, StatefulSet, FOUNDATION_SECONDS, emit)
        if foundation == DATABASE:
            parts = desired.of_stack(found, foundations.database_setup(found))
            where = self._place(DATABASE)
            self._bring_about(facts.DATABASES, key, parts, foundations.setup_digest(found), where, emit)

    def _wait_for_gateway(self, found: Setting, emit: Emit) -> None:
        from matcha.targets.kubernetes.exposed import waiting  # noqa: PLC0415 - only where models are exposed

        assert found.options.expose is not None
        waiting.taken_up(self._cluster, found.options.expose, emit)

    # -- applications outside --------------------------------------------------------------------------

    def exposed(self) -> str:
        """`matcha.target.Exposing`."""
        return self._options.expose.models if self._options.expose else ""

    def tokens(self) -> Tokens:
        return tokens.read(self._cluster)

    def keep_tokens(self, kept: Tokens, *, before: int, locked: bool = True) -> None:
        """The pods are touched, as in `refresh`: also where the options expose nothing any more. Nothing that
        comes after the list is kept fails.
        """
        listening = [service.name for service in self._known().services if service.outside is not None]
        writing = self._writing if locked else self._cluster
        tokens.keep(writing, kept, before)
        for name in listening:
            with contextlib.suppress(MatchaError):  # it is found within a minute
                writing.touch(name, TOUCHED)

    def _bring_about(
        self,
        what: str,
        key: str,
        parts: Sequence[Any],
        made_from: str,
        where: str,
        emit: Emit,
        advice: str = "",
    ) -> None:
        """By a Job, the last of `parts`; that it did is noted."""
        parts = self._marked(parts)
        self._raiser().run_job(parts, key, FOUNDATION_SECONDS, emit, place=where, advice=advice)
        facts.keep_brought(self._writing, what, made_from, rotation.marked(parts[-1]), where)

    def install(self, environment: Environment, emit: Emit) -> None:
        key = f"environment/{environment.name}"
        where, kinds = "", frozenset[str]()
        if not archives.has_image(environment):
            base.check(self._options, environment)
            found, kinds = with_environment(self._known(), environment), machines(self._cluster)
            where = self._place(STORE)
            for kind in sorted(kinds) if len(kinds) > 1 else [""]:
                job = desired.of_stack(found, archives.builder(found, environment, kind))
                self._raiser().run_job(job, key, archives.BUILD_SECONDS, emit, place=where, advice=MEND)
        facts.keep_environment(self._writing, environment.name, environment.digest, where, kinds)

    def ensure_secrets(self, names: Sequence[str]) -> None:
        self._secrets.ensure(names)

    def ensure_stores(self, areas: Sequence[str]) -> None:
        """Areas are prefixes of one bucket, which is there: they come to be with their first object."""
        facts.keep_areas(self._writing, areas, self._place(STORE))

    def start(self, service: Service, environment: Environment, emit: Emit) -> dict[str, int]:
        going.refuse(self._cluster, [service.name])
        found = with_service(with_environment(self._known(), environment), service)
        raiser, name = self._raiser(), service.name
        objects = list(desired.unique(desired.of_service(found, service)))
        if scaling.is_autoscaled(service):
            raiser.apply(self._marked(objects))
            raiser.keep_within(service)
        else:
            raiser.end_autoscaler(name)  # or it would set another number at once
            raiser.apply(self._marked(objects))
        kind, seconds, scale = type(objects[-1]), workloads.ready_seconds(service), scaling.bounds(service)
        raiser.wait(name, f"service/{name}", kind, seconds, emit, scale)
        return {p.name: p.preferred for p in service.ports}

    def _marked(self, objects: Sequence[Any]) -> Sequence[Any]:
        return rotation.put(objects, self._known(), self._cluster, self._secrets)

    def refresh(self, service: Service) -> None:
        """The pods see the change within seconds: a kubelet looks at a pod's volumes when the pod changes."""
        if service.live:
            found = with_service(self._known(), service)
            self._raiser().apply(desired.of_stack(found, [workloads.live_map(found, service)]))
            self._writing.touch(service.name, TOUCHED)

    # -- services ----------------------------------------------------------------------------------------

    def remove_service(self, name: str, emit: Emit) -> None:
        """Its volumes stay until `destroy`."""
        going.refuse(self._cluster, [name])
        emit(Event(f"service/{name}", "progress", "stopping"))
        removal.remove_service(self._cluster, name, self._store.fence)

    def settle(self) -> None:
        """What no step made and nothing refers to any more goes. Only for who knows all that is wanted: the
        record has not every part of it.
        """
        if self._setting:
            removal.prune(self._cluster, self._setting, self._store.fence)

    def share(self, name: str, text: str) -> None:
        """Raises MatchaError for more than a ConfigMap holds."""
        made = code.texts(f"{SHARED}-{name}", SHARED, MANAGER, {name: text})
        self._raiser().apply(put_instance([made], self._options.namespace))

    def shared(self, name: str) -> str | None:
        found = self._cluster.get(ConfigMap, f"{SHARED}-{name}")
        return (found.data or {}).get(name) if found else None

    def shares(self) -> Sequence[str]:
        found = self._cluster.found(ConfigMap, {**MINE, NAME: SHARED})
        return [str(each.metadata.name).removeprefix(f"{SHARED}-") for each in found]

    def unshare(self, name: str) -> None:
        self._writing.delete(ConfigMap, f"{SHARED}-{name}")

    def examine(
        self,
        state: State | None,
        environments: Sequence[Environment],
        *,
        fix: bool,
        services: Sequence[Service] = (),
    ) -> Sequence[Any]:
        """The way to the cluster, what it allows and offers, and the stack's lock."""
        from matcha.targets.kubernetes import doctor  # noqa: PLC0415 - only for the doctor

        patient = doctor.Patient(
            cluster=self._cluster,
            store=self._store,
            options=self._options,
            state=state,
            recorded=self._remembered(state) if state and recorded(state.facts) else None,
            wanted=lambda: desired.whole(self._render(services, environments)),
        )
        return doctor.examine(patient, fix=fix)

    # -- pause and end ---------------------------------------------------------------------------------

    def stop(self, emit: Emit) -> None:
        """Raises MatchaError where what only running pods have still would go with them."""
        going.refuse(self._cluster)
        state = self._store.read()
        with contextlib.suppress(Forbidden):  # who may not read passwords cannot tell whether they are lost
            made = self._remembered(state) if state and recorded(state.facts) else None
            keys.refuse_end(self._cluster, made, state)
        emit(Event("stack", "progress", "stopping every pod"))
        removal.scale_down(self._cluster, emit, self._store.fence)
        if state:
            self._here.stop(state)

    def belongings(self, *, delete_data: bool = True) -> Sequence[str]:
        return [*removal.belongings(self._cluster, delete_data), *priority.left(self._cluster)]

    def begun(self) -> Sequence[str]:
        """`matcha.target.Preparing`."""
        return begun.left(self._cluster)

    def destroy(self, emit: Emit, *, delete_data: bool = True) -> None:
        state = None
        with contextlib.suppress(StateUnreadable):  # whose forwards these were is not known then
            state = self._store.read()
        staying = volumes.staying(self._cluster, self._options) if delete_data else ()
        removal.destroy(self._cluster, delete_data, emit, self._store.fence)
        priority.remove(self._cluster)
        for said in staying:
            emit(Event("stack", "note", said))
        if state:
            self._here.remove(state)
        self._here.forget("")

    def leftovers(self, *, delete_data: bool = True) -> Sequence[str]:
        self._proof = proof.proof(self._cluster, delete_data)
        return [*self._proof.left, *priority.left(self._cluster), *self._here.left()]

    def unproved(self) -> Sequence[str]:
        """`matcha.target.Blinkered`: kinds that were not listed, and what is Matcha's by no label."""
        return self._proof.unproved

    def python(self) -> str:
        """`matcha.target.OnePython`: that of the image."""
        return base.python(self._options)

    def way_to(self, python: str) -> str:
        return base.way_to(self._options, python)

    def forget(self) -> Sequence[str]:
        """`matcha.target.Forgetful`: the forwards of stacks that somebody destroyed on another machine."""
        state = self._store.read()
        return self._here.forget(state.stack_id if state else "")

    def kept(self) -> Sequence[str]:
        return removal.kept(self._cluster)
