"""What a component describes and a target runs. Nothing here names either.

Strings of a `Service` (command, env, files) may hold placeholders, which the target resolves where it runs
the service:

    {port:NAME}        the number of the service's own port
    {bind}             the address to listen on (loopback locally, every interface in a pod)
    {url:ROLE}         base URL of another component's service, as this service reaches it; empty for a role
                       of `talks_to` that the stack does not have
    {address:ROLE.PORT}  host:port of any port of another component's service
    {hosts}            comma-separated Host headers the service may be addressed by
    {volume:NAME}      a private directory: a volume of the service, or a cache
    {store:AREA}       URL (or path) of an area of the stack's object store
    {database:NAME}    SQLAlchemy URL of a database of the service
    {files}            directory of the service's `files`
    {live}             directory of the service's `live` files
    {outside:PART}     of the service's `outside` port, where the target exposes it: `port`, the number (0
                       where it does not); `hosts`, comma-separated Host headers; `tokens`, the file of the
                       stack's `Tokens`; `rate`, the requests a second that each token may make. Empty where
                       the target does not expose it, but for `port`

Secrets have no placeholder: they reach a service as the environment variables that `Service.secrets` names,
or in a pipe.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from matcha.errors import Unfit

# JSON never matches: a name would stand in quotes.
PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9-]*)(?::([A-Za-z0-9_./-]*))?\}")
PLACEHOLDERS = (
    "port",
    "bind",
    "url",
    "address",
    "hosts",
    "volume",
    "store",
    "database",
    "files",
    "live",
    "outside",
)
OUTSIDE = {"port": "0", "hosts": "", "tokens": "", "rate": ""}  # {outside:PART} where nothing is exposed


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """The exact packages of a service.

    `lock` is a hash-locked universal requirements file, `python` a version specifier, `warm` a file that
    lists the modules whose bytecode the first start needs, `image` the official image of the same version.
    """

    name: str
    lock: Path
    python: str = ">=3.10,<3.14"
    warm: Path | None = None
    image: str = ""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.lock.read_bytes() + self.python.encode()).hexdigest()[:16]


class Port(msgspec.Struct, frozen=True):
    name: str
    preferred: int
    protocol: Literal["http", "grpc"] = "http"


class Database(msgspec.Struct, frozen=True):
    """A database the service owns. `seed` is SQL that makes it on SQLite, already migrated."""

    name: str
    seed: Path | None = None


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP GET of `path` answers 2xx while the service can do its work. Times in seconds.

    One that fails `failures` checks in a row is restarted. Where a restart would not help, because what is
    missing is a database or another service, `alive` is what answers for the process alone. `ready` answers
    2xx once a replica may be sent requests, where that comes later than health, as for a server that loads
    models first; within `ready_timeout` of its start, or the replica is called failed.
    """

    path: str
    alive: str = ""
    ready: str = ""
    ready_timeout: float = 1800.0
    port: str = "http"
    start_timeout: float = 120.0
    timeout: float = 3.0
    failures: int = 4


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What the service asks for: CPU in cores, memory in MiB. `most`: memory that it may use, where that is
    not twice what it asks for.
    """

    cpu: float = 0.1
    memory: int = 256
    most: int = 0


Replicas = Annotated[int, msgspec.Meta(ge=1, le=100)]


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How many replicas of a service run at once, where the target can run more than one.

    Between `min` and `max`: as many as keep the CPU of each at `cpu` percent of what it asks for.
    """

    min: int = 1
    max: int = 1
    cpu: int = 70


def check_replicas(least: int | None, most: int | None) -> None:
    """Of options that say both. Raises Unfit."""
    if least is not None and most is not None and most < least:
        raise Unfit("max-replicas", f"max-replicas has to be {least} (min-replicas) or more, found {most}")


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One long-running process, or several alike where it has a `scale`.

    `command` is what follows the environment's Python interpreter. `secrets` maps an environment variable
    to the name of a secret that the target generates and keeps. `irreplaceable` are names of those without
    which what the service stored cannot be read. With `conceal` they are kept out of the process's
    environment, and the process takes them by `matcha_secrets`. `files` are read at start, so a
    change restarts the service; `live` files change under the running process. `code` are folders for
    PYTHONPATH.
    `needs` are roles that must be healthy before this starts; `talks_to` those it only calls; `called_by`
    those that call it without being described anew for it. `for_applications` are
    names of ports that may be opened to what is no part of the stack. `outside` is a port for applications
    outside of everything, which asks each for a token: it is there only where the target exposes it. `caches`
    are directories whose loss costs nothing but time. One that is `apart` does for another service what now
    and then takes much memory, where targets bound the memory of each (`matcha.target.Bounding`); elsewhere
    it is left out, `{url:ROLE}` of it is empty, and the other does that work itself. Nobody outside of the
    stack reaches it.
    """

    name: str
    role: str
    environment: str
    command: tuple[str, ...]
    ports: tuple[Port, ...]
    health: Probe
    env: dict[str, str] = msgspec.field(default_factory=dict)
    secrets: dict[str, str] = msgspec.field(default_factory=dict)
    irreplaceable: tuple[str, ...] = ()
    conceal: bool = False
    volumes: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    databases: tuple[Database, ...] = ()
    files: dict[str, str] = msgspec.field(default_factory=dict)
    live: dict[str, str] = msgspec.field(default_factory=dict)
    code: tuple[Path, ...] = ()
    needs: tuple[str, ...] = ()
    talks_to: tuple[str, ...] = ()
    called_by: tuple[str, ...] = ()
    for_applications: tuple[str, ...] = ()
    outside: Port | None = None
    resources: Resources = Resources()
    scale: Scale | None = None
    stop_seconds: int = 15
    apart: bool = False


def service_digest(service: Service, environment: Environment) -> str:
    """Digest of everything whose change means another process; `live` files do not.

    Code counts by its content: the same code in another place is the same service.
    """
    described = msgspec.structs.replace(service, live={}, code=(), irreplaceable=())
    return digest_of((described, code_digests(service), environment.digest))


def code_digests(service: Service) -> list[str]:
    return [_folder_digest(folder) for folder in service.code]


@cache
def _folder_digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def digest_of(value: object) -> str:
    """Short stable digest of any msgspec-encodable value (paths by their text)."""
    raw = msgspec.json.encode(value, enc_hook=str, order="sorted")
    return hashlib.sha256(raw).hexdigest()[:16]
