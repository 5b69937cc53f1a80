"""The supervisord process itself: starting it, asking it, ending it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from matcha.errors import MatchaError
from matcha.host import rpc
from matcha.host.files import private_folder, write_private
from matcha.host.programs import LISTENER, inherited, last_line

START_SECONDS = 30.0
LONGEST_SOCKET = 103 - len(".4194304")  # bytes, macOS; supervisord binds beside it first, with its pid added
POLL = 0.05  # supervisord sleeps up to a second when nothing happens: a question wakes it

# -S and a path put last: nothing in a user's folder or site-packages can stand before the standard library.
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from supervisor.supervisord import main; main()"


class SupervisorFailed(MatchaError):
    """The supervisor could not be started, or refused what it was asked."""


class Tools(msgspec.Struct, frozen=True):
    """What a daemon was started with, and needs at every start of a program."""

    python: str
    folder: str
    site: str

    def exist(self) -> bool:
        return Path(self.python).exists() and Path(self.folder, "launcher.py").exists()


class Daemon:
    """One supervisord, known by its socket. Calls raise rpc.Fault and OSError unless they say otherwise."""

    def __init__(self, home: Path, runtime: Path, tag: str) -> None:
        self.home, self.tag = home, tag
        self.socket = runtime / "s"
        self.call = rpc.Rpc(str(self.socket))

    def alive(self) -> bool:
        """Whether it answers and is not about to end. Raises nothing."""
        if not self.socket.exists():
            return False
        try:
            return bool(self.call("getState")["statecode"] == 1)
        except (OSError, rpc.Fault):
            return False

    def is_fit(self) -> bool:
        """Whether what it starts programs with still exists: Matcha may have been installed anew."""
        try:
            raw = (self.home / "tools.json").read_bytes()
            return msgspec.json.decode(raw, type=Tools).exist()
        except (OSError, msgspec.MsgspecError):
            return False

    def start(self, pause: float) -> None:
        """Start it and wait until it answers. Raises SupervisorFailed with its last words."""
        tools = Tools(sys.executable, str(Path(__file__).resolve().parent), _site())
        write_private(self.home / "tools.json", msgspec.json.encode(tools))
        self._refuse_bad_socket()
        command = [tools.python, "-I", "-S", "-c", _BOOT, tools.site.split(os.pathsep)[0]]
        self._run([*command, "-c", str(self.home / "supervisord.conf")], self._environment(tools, pause))
        deadline = time.monotonic() + START_SECONDS
        while not self.alive():
            if time.monotonic() > deadline:
                raise self._failure("it does not answer")
            time.sleep(POLL)

    def mend(self) -> None:
        """Start the health listener where somebody stopped it, as a killed `stop` does."""
        if self.call("getProcessInfo", LISTENER)["statename"] in ("STOPPED", "EXITED", "FATAL"):
            self.call("startProcess", LISTENER, False)

    def end(self, seconds: float) -> None:
        """Stop all programs at once, then the daemon. Returns when it is gone or `seconds` have passed."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError, rpc.Fault):  # gone or going; what stays is swept
            pid = self.call("getPID")
            self.call("stopAllProcesses", False)
            while time.monotonic() < deadline and self._busy():
                time.sleep(POLL)
            self.call("shutdown")
            while time.monotonic() < deadline and not _ended(pid):
                self.alive()  # wakes it up
                time.sleep(POLL)

    def _busy(self) -> bool:
        return any(info["pid"] for info in self.call("getAllProcessInfo"))

    def _run(self, command: list[str], environ: dict[str, str]) -> None:
        """It detaches by itself: the command ends when its socket is open, holding nothing of ours."""
        try:
            done = subprocess.run(
                command,
                cwd=self.home,
                env=environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=START_SECONDS,
                start_new_session=True,
                umask=0o077,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._failure(str(error)) from None
        if done.returncode:
            raise self._failure((done.stderr + done.stdout).decode(errors="replace").strip())

    def _environment(self, tools: Tools, pause: float) -> dict[str, str]:
        """Paths reach the configuration as expansions of these; see `programs.log_path`."""
        launcher = [tools.python, "-I", "-S", f"{tools.folder}/launcher.py", tools.site]
        listener = [tools.python, "-I", "-S", f"{tools.folder}/health.py", tools.site, str(pause)]
        return {
            **inherited(os.environ),
            "MATCHA_STACK_TAG": self.tag,
            "MATCHA_SOCKET": str(self.socket),
            "MATCHA_LAUNCHER": shlex.join(launcher),
            "MATCHA_LISTENER": shlex.join(listener),
        }

    def _refuse_bad_socket(self) -> None:
        length = len(os.fsencode(self.socket))
        if length > LONGEST_SOCKET:
            raise SupervisorFailed(
                "The path of the supervisor's socket is too long for this system.",
                details=f"{self.socket} has {length} bytes, at most {LONGEST_SOCKET} work.",
                resolution="Set XDG_RUNTIME_DIR to a short folder of your own.",
            )
        folder = private_folder(self.socket.parent)
        found = folder.lstat()
        if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise SupervisorFailed(
                "The folder of the supervisor's socket is open to others.",
                details=f"{folder} must be a folder of yours with mode 0700.",
                resolution="matcha doctor",
            )

    def _failure(self, details: str) -> SupervisorFailed:
        last = last_line(self.home / "supervisord.log")
        return SupervisorFailed(
            "The supervisor does not start.",
            details="\n".join(filter(None, [details, last and f"its log ends: {last}"])),
            resolution="matcha doctor",
        )


def _ended(pid: int) -> bool:
    import psutil  # noqa: PLC0415 - costs 20 ms that `status` must not pay

    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _site() -> str:
    """The folders that hold supervisor and psutil, for processes that start without site-packages."""
    found = []
    for package in ("supervisor", "psutil"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise SupervisorFailed(
                f"The package {package} is missing beside Matcha.",
                resolution=f"{shlex.quote(sys.executable)} -m pip install --force-reinstall matcha-ml",
            )
        found.append(str(Path(spec.origin).parents[1]))
    return os.pathsep.join(dict.fromkeys(found))
