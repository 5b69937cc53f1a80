"""The local target: the real tools as supervised processes of this user, on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from matcha.access import Access
from matcha.errors import ComponentFailed, NotProvisioned
from matcha.events import Emit, Event
from matcha.host import logs
from matcha.host.files import private_folder
from matcha.host.ports import Wish, is_free, refuse_unknown
from matcha.host.probe import ask
from matcha.job import Demand, Job, JobStatus
from matcha.service import Environment, Service, service_digest
from matcha.state import State
from matcha.target import Foundation, Seen, ServiceStatus, Snapshot
from matcha.targets.local import home, look, mending, removal
from matcha.targets.local.access import LocalAccess
from matcha.targets.local.describe import Made, describe, places, ports_of
from matcha.targets.local.filestore import FileStore
from matcha.targets.local.home import Stack
from matcha.targets.local.installer import Installer, Telling, UvInstaller
from matcha.targets.local.launch import lay_out, refuse_taken_ports, wait_healthy, write_files
from matcha.targets.local.layout import Layout
from matcha.targets.local.notes import EnvironmentNote, ServiceNote

if TYPE_CHECKING:
    from matcha.host.findings import Finding

ABSENT = Seen("absent")
LOCKING = frozenset(("lock", "guard", ".gitignore"))
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class LocalOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`ports`: the port a service prefers, by `service` or `service/port`."""

    ports: dict[str, PortNumber] = msgspec.field(default_factory=dict)


class LocalTarget:
    """`matcha.target.Target` for the folder `project`. `installer` makes the environments."""

    name: ClassVar[str] = "local"
    keeps_data: ClassVar[bool] = False
    Options: ClassVar[type[LocalOptions]] = LocalOptions

    def __init__(
        self, project: Path, options: LocalOptions | None = None, *, installer: Installer | None = None
    ) -> None:
        self._layout = Layout(project.resolve())
        self._user = home.user_layout()
        self._options = options or LocalOptions()
        self._store = FileStore(self._layout.root)
        self._installer = installer or UvInstaller()
        self._stack: Stack | None = None
        self._state: State | None = None
        self._new: list[Path] = []
        self._mutex = threading.Lock()

    def store(self) -> FileStore:
        return self._store

    # -- what is there ---------------------------------------------------------------------------------

    def observe(
        self,
        state: State | None,
        services: Sequence[Service],
        environments: Sequence[Environment] = (),
    ) -> Snapshot:
        refuse_unknown(f"targets.{self.name}.ports", self._options.ports, services)
        stack = self._found()
        return look.observe(stack, state, services, self._moves(state)) if stack else Snapshot()

    def status(
        self, state: State, services: Sequence[Service] = (), environments: Sequence[Environment] = ()
    ) -> Sequence[ServiceStatus]:
        stack = self._found()
        return look.status(stack, state) if stack else []

    def access(self, state: State) -> Access:
        return LocalAccess(self._known(), state)

    def logs(self, service: str, *, lines: int, follow: bool) -> Iterator[str]:
        """Nothing, so far, of a service that has not run."""
        stack = self._known()
        log = stack.layout.log(service)
        found = logs.follow(log, lines, stack.layout.stack.exists) if follow else logs.last_lines(log, lines)
        for line in found:
            yield from stack.secrets.redact([line])

    # -- before the first step -------------------------------------------------------------------------

    def foundations(
        self, services: Sequence[Service], environments: Sequence[Environment]
    ) -> Sequence[Foundation]:
        """This machine carries them as it is."""
        return ()

    def preflight(self, environments: Sequence[Environment], snapshot: Snapshot) -> Sequence[str]:
        home.refuse_odd_path(self._layout.project)
        missing = [
            e
            for e in environments
            if snapshot.resources.get(f"environment/{e.name}", ABSENT).digest != e.digest
        ]
        return self._installer.notes(missing)

    def begin(
        self, state: State, services: Sequence[Service], environments: Sequence[Environment] = ()
    ) -> State:
        """Folders and ports. A project that lost its record keeps the data of the stack it was of."""
        home.refuse_link(self._layout)
        home.inherit(self._layout, self._user, state.stack_id)
        stack = Stack(self._layout, self._user, state.stack_id)
        home.refuse_copy(stack)
        if stack.index is None or stack.moved_from:
            home.forget_programs(stack)
        self._stack = home.settle(stack)
        ports = self._claim(self._stack, state, services)
        facts = {k: v for k, v in state.facts.items() if not k.startswith(look.ROLE)}
        facts |= {f"{look.ROLE}{s.role}": s.name for s in services} | {home.DATA: str(self._user.data)}
        self._state = msgspec.structs.replace(state, ports=ports, facts=facts)
        return self._state

    def _claim(self, stack: Stack, state: State, services: Sequence[Service]) -> dict[str, int]:
        wishes = [self._wish(f"{s.name}/{p.name}", p.preferred, state) for s in services for p in s.ports]
        return stack.ports.claim(stack.claimant, wishes, look.Listening(stack))

    def _wish(self, key: str, preferred: int, state: State) -> Wish:
        moved = self._moves(state).get(key)
        return Wish(key, moved or self._asked(key) or preferred, 0 if moved else state.ports.get(key, 0))

    def _moves(self, state: State | None) -> dict[str, int]:
        """Recorded ports that the options now ask to be others, where those are free."""
        asked = {key: (self._asked(key), number) for key, number in (state.ports if state else {}).items()}
        return {key: new for key, (new, old) in asked.items() if new and new != old and is_free(new)}

    def _asked(self, key: str) -> int:
        """The port that the options name for `service/port`; 0 where they do not."""
        service, _, port = key.rpartition("/")
        of_service = self._options.ports.get(service, 0) if port == "http" else 0
        return self._options.ports.get(key, of_service)

    # -- the steps -------------------------------------------------------------------------------------

    def lay(self, foundation: str, emit: Emit) -> None:
        """There are none."""

    def install(self, environment: Environment, emit: Emit) -> None:
        folder = self._installer.install(environment, Telling(environment.name, emit))
        note = EnvironmentNote(name=environment.name, digest=environment.digest, path=str(folder))
        self._known().notes.keep(note)
        self._new.append(folder)

    def ensure_secrets(self, names: Sequence[str]) -> None:
        self._known().secrets.ensure(names)

    def ensure_stores(self, areas: Sequence[str]) -> None:
        for area in areas:
            private_folder(self._layout.area(area))

    def start(self, service: Service, environment: Environment, emit: Emit) -> dict[str, int]:
        stack = self._known()
        made = self._made(stack, service)
        lay_out(stack, service, made)
        self._run(stack, service, environment, made)
        try:
            wait_healthy(stack, service, made, emit)
        except ComponentFailed as error:
            if not (broken := mending.broken(stack, self._installer, environment, error)):
                raise
            stack.supervisor.drop(service.name)  # it would be in the way, trying again and again
            mending.reinstall(stack, self._installer, environment, broken, emit)
            made = self._made(stack, service)
            self._run(stack, service, environment, made)
            wait_healthy(stack, service, made, emit)
        return ports_of(service.name, self._recorded().ports)

    def _run(self, stack: Stack, service: Service, environment: Environment, made: Made) -> None:
        """Has the process run as described, leaving alone one that does so already and is well."""
        with self._mutex:
            stack.supervisor.ensure()
        now = stack.supervisor.programs().get(service.name)
        note = ServiceNote(
            name=service.name,
            role=service.role,
            description=service_digest(service, environment),
            made=made.program.digest,
            health=made.health,
            ports=ports_of(service.name, self._recorded().ports),
        )
        is_new = now is None or now.digest != made.program.digest or now.condition != "running"
        if is_new:
            refuse_taken_ports(stack, service.name, note.ports)
        stack.notes.keep(note)
        if now is None or is_new:
            stack.supervisor.put(made.program)
        elif now.uptime > look.YOUNG and ask(made.health, service.health.timeout):
            stack.supervisor.restart(service.name)

    def _made(self, stack: Stack, service: Service) -> Made:
        note = stack.notes.environment(service.environment)
        if note is None:
            raise NotProvisioned(f"The environment of {service.name} is not installed.")
        state = self._recorded()
        where = places(service, stack.layout, state.ports, look.roles_of(state))
        return describe(service, note.python, where, stack.layout, stack.secrets.path)

    def refresh(self, service: Service) -> None:
        stack = self._known()
        write_files(stack.layout.live(service.name), self._made(stack, service).live)

    def check(self, demand: Demand) -> None:
        from matcha.targets.local import jobs  # noqa: PLC0415 - only for jobs

        jobs.check(demand)

    def run(self, job: Job) -> int:
        from matcha.targets.local import jobs  # noqa: PLC0415

        marks = jobs.marks(self._known().id, self._layout.project)
        return jobs.run(msgspec.structs.replace(job, env={**job.env, **marks}))

    def jobs(self) -> Sequence[JobStatus]:
        from matcha.targets.local import jobs  # noqa: PLC0415

        return jobs.listed(self._known().id, self._layout.project)

    def cancel(self, name: str) -> None:
        from matcha.targets.local import jobs  # noqa: PLC0415

        jobs.cancel(name, self._known().id, self._layout.project)

    def remove_service(self, name: str, emit: Emit) -> None:
        """Its process, files, log and ports go. Its volumes and databases stay until `destroy`."""
        stack = self._known()
        emit(Event(f"service/{name}", "progress", "stopping"))
        stack.supervisor.drop(name)
        removal.remove_service(stack, name)

    def settle(self) -> None:
        if self._new:
            self._installer.finish(self._new)

    # -- pause and end ---------------------------------------------------------------------------------

    def stop(self, emit: Emit) -> None:
        stack = self._found()
        if stack:
            emit(Event("stack", "progress", "stopping every process"))
            stack.supervisor.shutdown()

    def belongings(self, *, delete_data: bool = True) -> Sequence[str]:
        stack = self._found()
        return removal.belongings(stack) if stack else self._abandoned()

    def _abandoned(self) -> list[str]:
        """A folder with nothing but the lock of a run that was killed before it made anything."""
        root = self._layout.root
        found = {path.name for path in root.iterdir()} if root.is_dir() else set()
        if not found or found - LOCKING or self._store.lock():
            return []
        return [f"what a killed run left: {root}"]

    def destroy(self, emit: Emit, *, delete_data: bool = True) -> None:
        stack = self._found()
        if stack:
            removal.destroy(stack, emit)
        elif self._layout.stack.exists():
            removal.remove_files(self._layout)
        self._installer.sweep()

    def kept(self) -> Sequence[str]:
        return ()

    def leftovers(self, *, delete_data: bool = True) -> Sequence[str]:
        stack = self._found()
        if stack:
            return removal.leftovers(stack)
        return [str(self._layout.stack)] if self._layout.stack.exists() else []

    def examine(
        self,
        state: State | None,
        environments: Sequence[Environment],
        *,
        fix: bool,
        services: Sequence[Service] = (),
    ) -> Sequence[Finding]:
        """Every check of this machine and of the project's stack; with `fix`, mended where possible."""
        from matcha.targets.local import checkup  # noqa: PLC0415 - only for the doctor

        return checkup.examine(
            self._layout, self._user, self._store, self._installer, state, environments, fix
        )

    # -- which stack -----------------------------------------------------------------------------------

    def _found(self) -> Stack | None:
        """The project's stack; remembered, so that what `destroy` removed can still be looked for."""
        if self._stack is None:
            self._stack = home.find_stack(self._layout, self._user, self._store)
        return self._stack

    def _known(self) -> Stack:
        stack = self._found()
        if stack is None:
            raise NotProvisioned
        return stack

    def _recorded(self) -> State:
        state = self._state or self._store.read()
        if state is None:
            raise NotProvisioned
        return state
