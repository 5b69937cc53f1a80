"""uv as Matcha runs it: found, given the user's own settings, watched, and its failures told apart."""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import platformdirs

from matcha import tether
from matcha.errors import MatchaError


class EnvironmentFailed(MatchaError):
    """An environment could not be made; nothing of it counts as installed."""


class NoDiskSpace(EnvironmentFailed):
    """The disk of the cache is full, or too small for what is to be installed."""


class PackageIndexUnreachable(EnvironmentFailed):
    """The package index does not answer, answers with an error, or refuses the credentials."""


class DownloadFailed(EnvironmentFailed):
    """A download broke off."""


class WrongHash(EnvironmentFailed):
    """A package is not the one that the lock file names."""


class PythonUnavailable(EnvironmentFailed):
    """No Python that the packages support is on this machine, and none could be fetched."""


class EnvironmentUnresolvable(EnvironmentFailed):
    """No set of packages satisfies the requirements."""


class EnvironmentBusy(EnvironmentFailed):
    """Another process has been installing the same environment for too long."""


class CacheUnusable(EnvironmentFailed):
    """The cache folder cannot be written or locked."""


AGAIN = "run the same command again; what was downloaded is kept"
NETWORK = "check the network, HTTPS_PROXY and UV_DEFAULT_INDEX (matcha doctor helps), then " + AGAIN

# What uv's last lines say -> the error. The first match counts, so causes stand before their effects.
_FAILURES: tuple[tuple[str, type[EnvironmentFailed], str, str], ...] = (
    (
        r"no space left|os error 28\b|quota exceeded",
        NoDiskSpace,
        "The disk is full.",
        "free some space, or set MATCHA_CACHE_DIR and UV_CACHE_DIR to folders on a larger disk, then "
        + AGAIN,
    ),
    (
        r"hash mismatch",
        WrongHash,
        "The package index holds another file than the one that was locked.",
        "set UV_DEFAULT_INDEX to an index that holds the original files, or update Matcha",
    ),
    (
        r"valid authentication credentials|\b40[137] (unauthorized|forbidden|proxy)",
        PackageIndexUnreachable,
        "The package index or the proxy refused the credentials.",
        "put valid credentials into UV_DEFAULT_INDEX or HTTPS_PROXY, then " + AGAIN,
    ),
    (
        r"python-build-standalone|no interpreter found|no (managed )?(python )?download|inspect python",
        PythonUnavailable,
        "A fitting Python is neither on this machine nor could it be downloaded.",
        "install Python 3.11 or 3.12, then " + AGAIN,
    ),
    (
        r"unknownissuer|peer certificate|certificate verify",
        PackageIndexUnreachable,
        "The package index shows a certificate that this machine does not trust.",
        "set SSL_CERT_FILE to your organisation's certificate bundle, then " + AGAIN,
    ),
    (
        r"distribution cache|reading a body|decoding response|end of file before|timed? ?out.*body",
        DownloadFailed,
        "A download broke off.",
        NETWORK,
    ),
    (
        r"failed to fetch|error sending request|dns error|tcp connect|status (server|client) error|"
        r"timed? ?out|network connectivity|was not found in the (cache|provided)",
        PackageIndexUnreachable,
        "The package index cannot be reached.",
        NETWORK,
    ),
    (
        r"no solution found|unsatisfiable",
        EnvironmentUnresolvable,
        "No set of packages satisfies the requirements.",
        "change the requirements that the details name, then run the same command again",
    ),
    (r"failed to download", DownloadFailed, "A download failed.", NETWORK),
    (
        r"permission denied|read-only file system",
        CacheUnusable,
        "The cache cannot be written.",
        "set MATCHA_CACHE_DIR and UV_CACHE_DIR to folders that you may write to, then " + AGAIN,
    ),
)

# The user's index, proxy, certificate and cache settings stand; these would change what gets installed.
_NOT_OURS = (
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONDONTWRITEBYTECODE",
    "RUST_LOG",
    "UV_BREAK_SYSTEM_PACKAGES",
    "UV_BUILD_CONSTRAINT",
    "UV_COMPILE_BYTECODE",
    "UV_CONSTRAINT",
    "UV_CUSTOM_COMPILE_COMMAND",
    "UV_EXCLUDE",
    "UV_EXCLUDE_NEWER",
    "UV_NO_BINARY",
    "UV_NO_VERIFY_HASHES",
    "UV_OVERRIDE",
    "UV_PRERELEASE",
    "UV_PROJECT",
    "UV_PYTHON",
    "UV_REQUIRE_HASHES",
    "UV_RESOLUTION",
    "UV_SYSTEM_PYTHON",
    "UV_TORCH_BACKEND",
    "UV_VENV_CLEAR",
    "UV_VENV_SEED",
    "UV_WORKING_DIR",
)

# uv's variable, what also sets it, and where pip's users keep the same thing.
_FROM_PIP = (
    ("UV_DEFAULT_INDEX", ("UV_INDEX_URL",), ("PIP_INDEX_URL",)),
    ("UV_INDEX", ("UV_EXTRA_INDEX_URL",), ("PIP_EXTRA_INDEX_URL",)),
    ("SSL_CERT_FILE", ("SSL_CERT_DIR",), ("PIP_CERT", "REQUESTS_CA_BUNDLE")),
)

_NOISE = re.compile(r"^(Using |Resolved |Prepared |\s*Download|\s*[+-] |warning: Failed to inspect)")
_CREDENTIALS = re.compile(r"(\w+://)[^/\s@`'\"]+@")
_TOKENS = re.compile(r"([?&](?:token|key|sig|signature|password|secret|access_token)=)[^&\s`'\")]+", re.I)

LIMIT_SECONDS = 2 * 3600.0  # uv itself gives up on a silent network after UV_HTTP_TIMEOUT
TICK_SECONDS = 0.5


@functools.cache
def uv_path() -> str:
    """The uv that was installed with Matcha, else the one on PATH."""
    try:
        import uv  # noqa: PLC0415 - costs 10 ms, and most commands never need it

        return str(uv.find_uv_bin())
    except (ImportError, FileNotFoundError):
        return "uv"


def cache_root() -> Path:
    """Of Matcha, for all of a user's projects."""
    chosen = os.environ.get("MATCHA_CACHE_DIR")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("matcha")


def settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables uv gets: the user's own, pip's where uv's are unset.

    uv makes a folder of credentials where it looks for them: for a user who has none that is in the cache.
    """
    kept = {name: value for name, value in environ.items() if name not in _NOT_OURS}
    for name, also, of_pip in _FROM_PIP:
        if not any(kept.get(known) for known in (name, *also)):
            found = next((kept[known] for known in of_pip if kept.get(known)), "")
            kept.update({name: found} if found else {})
    if not _credentials(kept).exists():
        kept["UV_CREDENTIALS_DIR"] = str(cache_root() / "uv-credentials")
    return {**kept, "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}


def _credentials(environ: Mapping[str, str]) -> Path:
    """Where uv keeps the user's."""
    data = environ.get("XDG_DATA_HOME") or Path(environ.get("HOME") or Path.home(), ".local", "share")
    return Path(environ.get("UV_CREDENTIALS_DIR") or Path(data, "uv", "credentials"))


def redact(text: str) -> str:
    """`text` without the credentials that index and proxy addresses may hold."""
    return _TOKENS.sub(r"\1****", _CREDENTIALS.sub(r"\1****@", text))


def diagnose(output: str, message: str = "") -> EnvironmentFailed:
    """The error that uv's output amounts to, with its last lines as details."""
    lines = [line for line in output.splitlines() if line.strip() and not _NOISE.match(line)]
    details = redact("\n".join(lines[-20:]))
    for pattern, error, general, resolution in _FAILURES:
        if re.search(pattern, "\n".join(lines), re.I):
            return error(message or general, details=details, resolution=resolution)
    return EnvironmentFailed(message or "uv failed.", details=details, resolution=AGAIN)


def ask(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> str:
    """What uv prints; empty when it fails. For questions that need no network."""
    done = subprocess.run(
        [uv_path(), *arguments],
        env=settings(os.environ if environ is None else environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def run(
    arguments: Sequence[str],
    *,
    cwd: Path,
    line: Callable[[str], None] = lambda _: None,
    tick: Callable[[], None] = lambda: None,
    hold: int | None = None,
    limit: float = LIMIT_SECONDS,
) -> None:
    """Run uv to its end; `line` gets what it says, `tick` is called twice a second.

    `hold` is a file descriptor that uv keeps open: a lock on it stays taken until uv has ended, which it does
    when this process is killed. Raises EnvironmentFailed or what `diagnose` makes of uv's output.
    """
    said: list[str] = []
    with _started(arguments, cwd, hold) as process:
        for text in _lines(process, tick, time.monotonic() + limit):
            said.append(text)
            line(text)
        code = process.wait(timeout=60)
    if code:
        raise diagnose("\n".join(said))


def _started(
    arguments: Sequence[str], cwd: Path, hold: int | None
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """uv with what it builds with, ended when this process ends."""
    return tether.started(
        [uv_path(), *arguments],
        hold=() if hold is None else (hold,),
        cwd=cwd,
        env=settings(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _lines(process: subprocess.Popen[str], tick: Callable[[], None], deadline: float) -> Iterator[str]:
    """uv's lines as they come. Raises EnvironmentFailed past the deadline."""
    waiting: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process, waiting), daemon=True).start()
    while True:
        try:
            text = waiting.get(timeout=TICK_SECONDS)
        except queue.Empty:
            text = ""
        if text is None:
            return
        if text:
            yield text
        elif time.monotonic() > deadline:
            raise EnvironmentFailed("uv did not finish in time.", resolution=AGAIN)
        tick()


def _read(process: subprocess.Popen[str], into: queue.Queue[str | None]) -> None:
    assert process.stderr is not None
    with contextlib.suppress(ValueError):  # closed under us once the process was ended
        for text in process.stderr:
            into.put(text.rstrip("\n"))
    into.put(None)
