"""What is wrong with a local stack, and with what other stacks of the user left behind."""

from __future__ import annotations

import contextlib
import stat
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from matcha.errors import MatchaError, StateUnreadable
from matcha.events import silent
from matcha.host.findings import Finding
from matcha.host.listening import listener
from matcha.host.ports import is_free
from matcha.service import Environment
from matcha.state import State
from matcha.targets.local import doctor, look, mending, removal
from matcha.targets.local.describe import ports_of
from matcha.targets.local.doctor import MACHINE, Check, Patient, fine, ill
from matcha.targets.local.filestore import FileStore
from matcha.targets.local.home import Stack, find_stack, indexed, unusable
from matcha.targets.local.installer import Installer
from matcha.targets.local.layout import Layout, UserLayout
from matcha.targets.local.notes import EnvironmentNote

PYTHON_SECONDS = 20.0


def record(patient: Patient) -> Iterable[Finding]:
    """Whether it can be read, and is there where a stack is."""
    try:
        there = patient.store.read() is not None
    except StateUnreadable as error:
        said = " ".join([f"{error.message}.".replace("..", "."), *error.details.splitlines()[1:]])
        if patient.store.is_corrupt():
            yield ill("record", said, "matcha doctor --fix", patient.store.set_aside)
        else:
            yield ill("record", said, error.resolution)
        return
    if patient.stack and not there:
        what = "matcha provision, which takes over what is there. Models have to be deployed again."
        yield ill("record", "The stack on this machine has none.", what)
    else:
        yield fine("record", "It can be read." if there else "There is no stack here yet.")


def lock(patient: Patient) -> Iterable[Finding]:
    stale, held = patient.store.stale(), patient.store.lock()
    if stale:
        yield ill(
            "lock",
            f"{stale.owner} left the lock of its {stale.operation} behind.",
            "matcha doctor --fix",
            patient.store.break_lock,
        )
    elif held:
        yield fine("lock", f"{held.owner} is changing the stack ({held.operation}).")
    else:
        yield fine("lock", "Nobody is changing the stack.")


def environments(patient: Patient) -> Iterable[Finding]:
    """Those that were installed for this stack: every file of them, and a Python that starts."""
    if patient.stack is None:
        return
    notes = patient.stack.notes.environments()
    looked_at = [(e, notes[e.name]) for e in patient.environments if e.name in notes]
    broken = [(e, reason) for e, note in looked_at if (reason := _broken(patient, e, note))]
    for environment, reason in broken:
        yield ill(
            "environments",
            f"The environment of {environment.name} is broken: {reason}",
            "matcha doctor --fix",
            _reinstall(patient, environment, reason),
        )
    if looked_at and not broken:
        yield fine("environments", f"{len(looked_at)} installed and whole.")


def _broken(patient: Patient, environment: Environment, note: EnvironmentNote) -> str:
    if not patient.installer.is_whole(environment, Path(note.path)):
        return f"{note.path} is not complete."
    if missing := patient.installer.damage(Path(note.path)):
        return f"{missing}."
    try:
        done = subprocess.run(
            [note.python, "-I", "-c", ""],
            capture_output=True,
            text=True,
            timeout=PYTHON_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"its Python does not start ({error})."
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return f"its Python does not start ({last})." if done.returncode else ""


def _reinstall(patient: Patient, environment: Environment, why: str) -> Callable[[], object]:
    def mend() -> None:
        assert patient.stack is not None
        mending.reinstall(patient.stack, patient.installer, environment, why)

    return mend


def supervisor(patient: Patient) -> Iterable[Finding]:
    """Whether it lives when it should, and nothing of it lives when it should not."""
    stack = patient.stack
    if stack is None:
        return
    should = patient.state is not None and patient.state.phase == "ready"
    alive = stack.supervisor.alive()
    survivors = [] if alive else stack.supervisor.survivors()
    if stack.index is None:
        yield ill("supervisor", "This stack was not made on this machine.", "matcha provision")
    elif should and not alive:
        yield ill(
            "supervisor",
            "It is not running, so nothing restarts the services.",
            "matcha doctor --fix",
            stack.supervisor.ensure,
        )
    elif survivors:
        yield ill(
            "supervisor",
            f"{len(survivors)} processes of the stack run without it.",
            "matcha doctor --fix",
            stack.supervisor.shutdown,
        )
    else:
        yield fine("supervisor", "It is running." if alive else "It is not running, as it should be.")


def services(patient: Patient) -> Iterable[Finding]:
    if patient.stack is None or patient.state is None or patient.state.phase == "stopped":
        return
    facts = look.status(patient.stack, patient.state)
    for fact in facts:
        if fact.condition != "running":
            yield ill(
                "services", f"{fact.name} is {fact.condition}. {fact.detail}".strip(), "matcha provision"
            )
    if facts and all(f.condition == "running" for f in facts):
        yield fine("services", f"{len(facts)} running and well.")


def ports(patient: Patient) -> Iterable[Finding]:
    """Those that the stack's own processes do not hold: somebody else may have taken them."""
    if patient.stack is None or patient.state is None:
        return
    ours = look.Listening(patient.stack)
    running = {s.name for s in look.status(patient.stack, patient.state) if s.condition == "running"}
    taken = [
        (name, key, number)
        for name in {k.rpartition("/")[0] for k in patient.state.ports} - running
        for key, number in ports_of(name, patient.state.ports).items()
        if not is_free(number) and not ours(number)
    ]
    for name, _, number in sorted(taken):
        who = listener(number) or "another program"
        fix = "Stop that program, or matcha provision, which moves the service to another port."
        yield ill("ports", f"Port {number} of {name} is taken by {who}.", fix)
    if not taken:
        yield fine("ports", "None is taken by another program.")


def modes(patient: Patient) -> Iterable[Finding]:
    """Nothing of a stack is for other users to read."""
    if patient.stack is None:
        return
    candidates = (
        patient.layout.root,
        patient.layout.stack,
        patient.layout.root / "state.json",
        patient.user.stack(patient.stack.id),
        patient.stack.secrets.path,
    )
    too_open = [p for p in candidates if p.exists() and stat.S_IMODE(p.stat().st_mode) & 0o077]
    for path in too_open:
        yield ill("permissions", f"Other users can open {path}.", "matcha doctor --fix", _closing(path))
    if not too_open:
        yield fine("permissions", "Only you can open the stack's files.")


def _closing(path: Path) -> Callable[[], object]:
    def mend() -> None:
        path.chmod(0o700 if path.is_dir() else 0o600)

    return mend


def secrets(patient: Patient) -> Iterable[Finding]:
    if patient.stack is None:
        return
    try:
        patient.stack.secrets.read()
    except MatchaError as error:
        yield ill(
            "secrets",
            error.message,
            f"Put back a copy of {patient.stack.secrets.path}; without one: matcha destroy, then provision.",
        )
    else:
        yield fine("secrets", "They can be read.")


def runtime(patient: Patient) -> Iterable[Finding]:
    if patient.stack is None or not patient.stack.runtime.exists():
        return
    reason = unusable(patient.stack.runtime)
    if reason:
        yield ill("runtime folder", reason, "matcha provision")
    else:
        yield fine("runtime folder", f"{patient.stack.runtime} is yours alone.")


def lost_stacks(patient: Patient) -> Iterable[Finding]:
    """Stacks whose project is gone. Those that still run are ended; others may be on a disk that is away."""
    gone = [s for s in _others(patient) if _is_gone(s)]
    for stack in gone:
        yield _lost(stack, stack.supervisor.survivors())
    if not gone:
        yield fine("lost stacks", "None.")


def _lost(stack: Stack, pids: list[int]) -> Finding:
    project = stack.layout.project
    if not pids:
        return fine("lost stacks", f"{project} is not there; its passwords are kept.")
    if moved := _moved_to(pids):
        what = f"{project} moved to {moved} while its stack was running."
        return ill("lost stacks", what, f"Run matcha provision in {moved}.")
    what = f"{len(pids)} processes run for {project}, which is gone."
    return ill("lost stacks", what, "matcha doctor --fix", _ending(stack))


def _moved_to(pids: list[int]) -> str:
    """Where the processes' working folders are now, if they are in a project."""
    import psutil  # noqa: PLC0415 - costs tens of milliseconds

    for pid in pids:
        with contextlib.suppress(psutil.Error, OSError):
            folder = Path(psutil.Process(pid).cwd())
            if ".matcha" in folder.parts and folder.is_dir():
                return str(Path(*folder.parts[: folder.parts.index(".matcha")]))
    return ""


def _others(patient: Patient) -> list[Stack]:
    own = patient.stack.id if patient.stack else ""
    found = indexed(patient.user).items()
    return [Stack(Layout(Path(entry.project)), patient.user, i) for i, entry in found if i != own]


def _is_gone(stack: Stack) -> bool:
    """A record that cannot be read counts as there: it may be of this stack."""
    try:
        state = FileStore(stack.layout.root).read()
    except MatchaError:
        return False
    return (state is None or state.stack_id != stack.id) and not stack.layout.stack.exists()


def _ending(stack: Stack) -> Callable[[], object]:
    def mend() -> None:
        removal.destroy(stack, silent)

    return mend


CHECKS: tuple[Check, ...] = (
    *MACHINE, record, lock, environments, supervisor, services, ports, modes, secrets, runtime, lost_stacks,
)  # fmt: skip


def examine(
    layout: Layout,
    user: UserLayout,
    store: FileStore,
    installer: Installer,
    state: State | None,
    environments: Sequence[Environment],
    fix: bool,
) -> list[Finding]:
    """All checks of a project; a copy of another project is only told that it is one."""
    try:
        stack = find_stack(layout, user, store)
    except MatchaError as error:
        return [ill("project", f"{error.message} {error.details}", error.resolution)]
    patient = Patient(
        layout=layout,
        user=user,
        store=store,
        installer=installer,
        environments=environments,
        state=state,
        stack=stack,
    )
    return doctor.examine(patient, CHECKS, fix=fix)
