"""What is wrong on this machine: each check a function of the patient, each result a value."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from matcha.errors import MatchaError
from matcha.host.files import nearest, refused
from matcha.host.findings import Finding
from matcha.service import Environment
from matcha.state import State
from matcha.targets.local.filestore import FileStore
from matcha.targets.local.home import Stack
from matcha.targets.local.installer import Installer
from matcha.targets.local.layout import Layout, UserLayout

FOR_ENVIRONMENTS = 5e9  # bytes that all environments take, with uv's own cache
NETWORK_DISKS = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "afs", "lustre")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")


class Patient(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the checks look at. `stack` is None where the project has none.

    `least_free` are the bytes that databases, logs and artifacts need to get along.
    """

    layout: Layout
    user: UserLayout
    store: FileStore
    installer: Installer
    environments: Sequence[Environment]
    state: State | None = None
    stack: Stack | None = None
    least_free: float = 500e6
    environ: Mapping[str, str] = msgspec.field(default_factory=lambda: dict(os.environ))


Check = Callable[[Patient], Iterable[Finding]]


def examine(patient: Patient, checks: Iterable[Check], *, fix: bool) -> list[Finding]:
    """Every finding of every check; with `fix`, those that can be mended are, and are looked at again."""
    return [finding for check in checks for finding in _examine(patient, check, fix)]


def _examine(patient: Patient, check: Check, fix: bool) -> list[Finding]:
    found = list(check(patient))
    ill = {f.message for f in found if not f.ok and f.mend}
    if not fix or not ill:
        return found
    problems = [_mend(f) for f in found if f.message in ill]
    if any(problems):
        return [msgspec.structs.replace(f, mend=None) for f in (*found, *filter(None, problems))]
    again = list(check(patient))
    return [msgspec.structs.replace(f, fixed=f.ok, mend=None if f.ok else f.mend) for f in again]


def _mend(finding: Finding) -> Finding | None:
    """A finding that says why it could not be mended."""
    try:
        if finding.mend:
            finding.mend()
    except (MatchaError, OSError) as error:
        return Finding(check=finding.check, ok=False, message=f"It could not be mended: {error}")
    return None


def fine(check: str, message: str) -> Finding:
    return Finding(check=check, ok=True, message=message)


def ill(check: str, message: str, fix: str, mend: Callable[[], object] | None = None) -> Finding:
    return Finding(check=check, ok=False, message=message, fix=fix, mend=mend)


# -- checks of the machine ---------------------------------------------------------------------------------


def python(patient: Patient) -> Iterable[Finding]:
    """This one, and one for each environment."""
    running = platform.python_version()
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        yield ill("python", f"Matcha runs on Python {running}.", "Install Matcha with Python 3.10 to 3.13.")
    else:
        yield fine("python", f"{running} on {platform.system()} {platform.machine()}.")
    for environment in patient.environments:
        try:
            patient.installer.check(environment)
        except MatchaError as error:
            yield ill("python", f"{environment.name}: {error.message}", error.resolution)


def disk(patient: Patient) -> Iterable[Finding]:
    missing = [e for e in patient.environments if not _has(patient, e)]
    places = [(patient.layout.project, patient.least_free, "the project")]
    places.append(
        (patient.installer.cache(), FOR_ENVIRONMENTS if missing else patient.least_free, "the environments")
    )
    for folder, needed, what in places:
        there = nearest(folder)
        free = shutil.disk_usage(there).free
        message = f"{free / 1e9:.1f} GB free for {what} ({there})."
        if free >= needed:
            yield fine("disk space", message)
        else:
            yield ill(
                "disk space",
                message,
                f"Free {needed / 1e9:.1f} GB, or set MATCHA_CACHE_DIR to a larger disk.",
            )


def _has(patient: Patient, environment: Environment) -> bool:
    note = patient.stack.notes.environment(environment.name) if patient.stack else None
    return note is not None and note.digest == environment.digest and note.python.exists()


def folders(patient: Patient) -> Iterable[Finding]:
    """Whether files can be made where Matcha has to make them."""
    own = "to a folder of your own."
    places = (
        (patient.layout.project, "the project", "Work in a folder of your own."),
        (patient.user.data, "what is kept of your stacks", f"Set XDG_DATA_HOME {own}"),
        (patient.installer.cache(), "the environments", f"Set MATCHA_CACHE_DIR {own}"),
    )
    refusing = [(nearest(folder), what, fix) for folder, what, fix in places]
    refusing = [each for each in refusing if _refusal(each[0])]
    for folder, what, fix in refusing:
        yield ill("folders", f"{folder} takes no files, for {what}: {_refusal(folder)}.", fix)
    if not refusing:
        yield fine("folders", "Matcha can write where it has to.")


def _refusal(folder: Path) -> str:
    """Why no file can be made there; empty where it can. A disk that is full is another check's business."""
    error = refused(folder)
    return "" if error is None or error.errno == errno.ENOSPC else error.strerror or str(error)


def file_system(patient: Patient) -> Iterable[Finding]:
    """Whether the project's disk keeps other users out, and databases whole."""
    project = patient.layout.project
    kind = _disk_kind(project)
    if not _keeps_modes(patient.layout.root if patient.layout.root.exists() else project):
        yield ill(
            "project folder",
            f"The disk of {project} does not keep permissions: other users can read what is in it.",
            "Move the project to a disk of this system, such as your home folder.",
        )
    elif kind.startswith(NETWORK_DISKS):
        yield ill(
            "project folder",
            f"{project} is on a network disk ({kind}), where SQLite databases can be damaged.",
            "Move the project to a disk of this machine.",
        )
    else:
        yield fine("project folder", f"{project} keeps other users out.")


def _keeps_modes(folder: Path) -> bool:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".matcha-") as file:
            Path(file.name).chmod(0o600)
            return not Path(file.name).stat().st_mode & 0o077
    except OSError:
        return True  # a folder that cannot be written to is another check's business


def _disk_kind(path: Path) -> str:
    """Type of the file system, from the longest mount point above `path`; empty where the system hides it."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    mounts = [(fields[1].replace("\\040", " "), fields[2]) for fields in map(str.split, lines)]
    above = [(len(point), kind) for point, kind in mounts if path.is_relative_to(point)]
    return max(above, default=(0, ""))[1]


def proxy(patient: Patient) -> Iterable[Finding]:
    """A proxy that is asked for this machine's own addresses hides every service."""
    environ = {k.lower(): v for k, v in patient.environ.items()}
    names = [n for n in ("http_proxy", "all_proxy") if environ.get(n)]
    spared = {part.strip() for part in environ.get("no_proxy", "").split(",")}
    if not names:
        yield fine("proxy", "None is set for http.")
    elif spared & {"127.0.0.1", "127.0.0.0/8", "*"}:
        yield fine("proxy", "This machine's own addresses bypass it.")
    else:
        yield ill(
            "proxy",
            f"{' and '.join(names).upper()} also catches 127.0.0.1, so clients do not reach the stack.",
            'export NO_PROXY="127.0.0.1,localhost${NO_PROXY:+,$NO_PROXY}"',
        )


def certificates(patient: Patient) -> Iterable[Finding]:
    bad = [n for n in CERTIFICATES if patient.environ.get(n) and not Path(patient.environ[n]).exists()]
    for name in bad:
        yield ill(
            "certificates", f"{name} names {patient.environ[name]}, which does not exist.", f"unset {name}"
        )
    if not bad:
        yield fine("certificates", "No variable names a bundle that is missing.")


def index(patient: Patient) -> Iterable[Finding]:
    """Whether packages can be had; of no weight while nothing has to be installed."""
    missing = [e.name for e in patient.environments if not _has(patient, e)]
    try:
        patient.installer.check_index()
    except MatchaError as error:
        if missing:
            details = error.details.strip().splitlines()
            yield ill("package index", " ".join([error.message, *details[-1:]]), error.resolution)
        else:
            yield fine("package index", "It does not answer, and nothing has to be installed.")
    else:
        yield fine("package index", "It answers.")


def other_users(_: Patient) -> Iterable[Finding]:
    """Loopback is shared by all users of a machine, and local MLflow and MLServer ask for no password."""
    names = sorted(_people() - {_name(os.getuid())})
    if names:
        shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
        yield ill(
            "other users",
            f"{len(names)} other people use this machine ({shown}) and can reach the stack's addresses.",
            "Keep what they must not see on a machine of your own, or on the kubernetes target.",
        )
    else:
        yield fine("other users", "Nobody else is using this machine.")


def _people() -> set[str]:
    """Users with a login of their own who have processes here."""
    import psutil  # noqa: PLC0415 - costs tens of milliseconds

    lowest = 500 if sys.platform == "darwin" else 1000
    found = {p.info["uids"].real for p in psutil.process_iter(["uids"]) if p.info["uids"]}
    return {_name(uid) for uid in found if lowest <= uid < 60000}


def _name(uid: int) -> str:
    import pwd  # noqa: PLC0415

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


MACHINE: tuple[Check, ...] = (
    python, disk, file_system, folders, proxy, certificates, index, other_users,
)  # fmt: skip
