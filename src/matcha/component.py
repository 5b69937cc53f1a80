"""The contract between components and everything else. Nothing here names a target.

A component describes services; a target runs them. Strings of a `Service` (command, env, files) may hold
placeholders, which the target resolves where it runs the service:

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

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
Cores = Annotated[float, msgspec.Meta(ge=0.01, le=128)]
Mebibytes = Annotated[int, msgspec.Meta(ge=100, le=2_000_000)]


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


class GivenReference(msgspec.Struct, frozen=True, kw_only=True):
    """What `models:` named as a deployment's drift reference when it was deployed.

    `source` as written, `digest` that of the bytes that were read.
    """

    source: str
    digest: str


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """A model version served under a name.

    `asked` is the URI as typed, `uri` the exact version it meant then (`models:/movie/3`). `environment` is
    empty where the model fits the serving environment, otherwise the digest of the lock it brought.
    `dedicated`: a process serves it and no other model.
    `signature` is MLflow's own JSON; `reference` the artifact path, under the run, of the reference sample,
    which is of the training data where `given` is null.
    """

    name: str
    asked: str
    uri: str
    model: str = ""
    version: str = ""
    run_id: str = ""
    environment: str = ""
    python: str = ""
    dedicated: bool = False
    signature: dict[str, Any] = msgspec.field(default_factory=dict)
    reference: str = ""
    given: GivenReference | None = None
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    deployed_at: str = ""

    @property
    def digest(self) -> str:
        return digest_of(msgspec.structs.replace(self, deployed_at=""))


class Output(msgspec.Struct, frozen=True):
    """A property that `matcha get` shows."""

    value: str
    sensitive: bool = False


class Holding(msgspec.Struct, frozen=True):
    """Something of which the stack may hold the only copy, such as (3, "runs"). -1: could not be counted."""

    count: int
    what: str


class Access(Protocol):
    """How code on this machine reaches a provisioned stack."""

    def url(self, role: str) -> str:
        """Base URL of the component's service. Raises NotProvisioned where it has none yet."""

    def address(self, role: str, port: str) -> str:
        """host:port."""

    def secret(self, name: str) -> str: ...

    def keep_secret(self, name: str, value: str) -> None: ...

    def store(self, area: str) -> str:
        """URL or path of an object-store area as a client reaches it."""

    def store_env(self) -> Mapping[str, Output]:
        """Environment variables with which a client reaches the object store; none where it is a folder."""

    def inside(self, template: str) -> str:
        """`template` with {url:..}, {address:..} and {store:..} resolved as a service sees them."""

    def database(self, name: str) -> Path | None:
        """The SQLite file of a database, where it is one and exists."""

    def folder(self, name: str) -> Path:
        """A private folder of the project for client-side configuration (made, mode 0700)."""


@runtime_checkable
class SharedAccess(Protocol):
    """An `Access` to a stack that others reach too, by loopback ports of their own machines."""

    def shared_url(self, role: str) -> str:
        """What `url` is wherever the preferred port is free; the same for everybody, so it may be kept in
        the stack. Raises NotProvisioned.
        """


@runtime_checkable
class ReplicatedAccess(Protocol):
    """An `Access` to a stack whose services may run as several replicas."""

    def replicas(self, role: str) -> AbstractContextManager[Mapping[str, str]]:
        """Base URL of the first HTTP port of every replica that runs now, ready or not, by the replica's
        name. The addresses are good while inside. Raises NotProvisioned where the role has no service.
        """


@runtime_checkable
class ExposedAccess(Protocol):
    """An `Access` to a stack that may be exposed to applications outside."""

    def public_url(self, role: str) -> str:
        """Base URL of the `outside` port of the role's service as applications outside reach it; empty where
        it is not exposed.
        """


@runtime_checkable
class InsideAccess(Protocol):
    """An `Access` as what runs inside of the stack has it: its addresses mean nothing on this machine."""

    here: Access  # the same stack as this machine reaches it


def reachable(access: Access) -> Access:
    """One whose addresses can be asked from here."""
    return access.here if isinstance(access, InsideAccess) else access


@contextmanager
def replicas(access: Access, role: str) -> Iterator[Mapping[str, str]]:
    """Base URL of every replica of a role's service, by name: on most targets there is one."""
    if isinstance(access, ReplicatedAccess):
        with access.replicas(role) as found:
            yield found
    else:
        yield {role: access.url(role)}


def public_url(access: Access, role: str) -> str:
    """Where applications outside reach the role's service; empty where they do not."""
    return access.public_url(role) if isinstance(access, ExposedAccess) else ""


def shared_url(access: Access, role: str) -> str:
    """The address of `role` to write into what the stack's users share."""
    return access.shared_url(role) if isinstance(access, SharedAccess) else access.url(role)


class Component:
    """One tool in one role. Subclasses live in `matcha.components.<flavor>` and are found by folder."""

    role: ClassVar[str]
    flavor: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[str] = ""
    stacks: ClassVar[tuple[str, ...]] = ("default",)  # named stacks that hold it by default
    requires: ClassVar[tuple[str, ...]] = ()  # roles that must be in the stack
    also: ClassVar[tuple[str, ...]] = ()  # resources besides the role that `resources` tells of
    clients: ClassVar[tuple[str, ...]] = ()  # packages a user's own code imports to reach it
    Options: ClassVar[type[msgspec.Struct]]

    def __init__(self, options: msgspec.Struct) -> None:
        self.options = options

    def environments(self) -> tuple[Environment, ...]:
        return ()

    def services(self, deployments: Sequence[Deployment]) -> tuple[Service, ...]:
        """Pure: no reads but of package files."""
        return ()

    def stores(self) -> tuple[str, ...]:
        """Object-store areas that exist without a service of this component using them."""
        return ()

    def secrets(self) -> tuple[str, ...]:
        """Names of secrets to generate besides those that services name."""
        return ()

    def setup_digest(self) -> str:
        """Changes when `setup` has to run again; empty when there is nothing to set up."""
        return ""

    def setup(self, access: Access) -> None:
        """Wire the healthy service. Idempotent; safe to be killed at any point."""

    def outputs(self, access: Access) -> Mapping[str, Output]:
        return {}

    def resources(self, access: Access) -> Mapping[str, Mapping[str, Output]]:
        """Outputs by resource, for a component that stands for more than its own role."""
        return {self.role: self.outputs(access)}

    def client_env(self, access: Access) -> Mapping[str, Output]:
        """Environment variables that a user's own code needs to reach this component."""
        return {}

    def holdings(self, access: Access) -> tuple[Holding, ...]:
        """What destroying the stack would lose. Works on a stopped stack, and on one that had the component
        before: built-in ones are asked always, and find nothing where they never were.
        """
        return ()


def services_of(
    component: Component, deployments: Sequence[Deployment], *, apart: bool
) -> tuple[Service, ...]:
    """`apart`: also those that are."""
    return tuple(s for s in component.services(deployments) if apart or not s.apart)


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """What a model URI means now. `requirements` are pip requirement lines of the model; `example` is its
    input example, in the JSON of MLflow's scoring server.
    """

    uri: str
    model: str = ""
    version: str = ""
    run_id: str = ""
    experiment_id: str = ""
    requirements: tuple[str, ...] = ()
    python: str = ""
    signature: dict[str, Any] = msgspec.field(default_factory=dict)
    flavors: tuple[str, ...] = ()
    example: Any = None
    aliases: tuple[str, ...] = ()


class RegisteredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A name in the registry: its versions, newest first, and alias -> version."""

    name: str
    versions: tuple[str, ...] = ()
    aliases: dict[str, str] = msgspec.field(default_factory=dict)


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What the stack keeps of an application's bearer token `matcha_<id>_<secret>`.

    `digest` is the SHA-256 of the whole token, in hex. `models`: deployments that it may ask; none for all of
    them. Times are Unix seconds; `expires` 0: never.
    """

    id: str
    name: str
    digest: str
    models: tuple[str, ...] = ()
    created: float
    expires: float = 0.0


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens that are good. `serial` rises with every change: the newest list is the one that counts."""

    serial: int = 0
    tokens: tuple[Token, ...] = ()


class LoadResult(msgspec.Struct, frozen=True):
    """How serving a deployment went; `error` is empty when the model answers."""

    name: str
    error: str = ""


@runtime_checkable
class ModelRegistry(Protocol):
    """An experiment tracker that knows models."""

    def resolve(self, access: Access, uri: str) -> ModelVersion:
        """Raises BadInput for a malformed URI, NotFound for a model, version, alias or run unknown to it."""

    def models(self, access: Access) -> Sequence[RegisteredModel]: ...

    def has_runs_since(self, access: Access, unix_ms: int) -> bool:
        """Whether any run started since then; False where the tracker does not answer."""

    def toolbox(self) -> tuple[Environment, Path]:
        """Environment and code folder of the scripts that read datasets on the user's machine."""


@runtime_checkable
class ModelServer(Protocol):
    """A model deployer."""

    def serving_lock(self) -> Environment: ...

    def own_environment(self, model: ModelVersion, python: str = "") -> tuple[str, ...]:
        """Requirement lines of a server process for a model that does not fit; () where it fits.

        `python` is the only one ("3.12") that servers run on; without it each may have its own. Raises
        WrongPython for a model that loads on another alone, MatchaError for one that no server can run.
        """

    def model_environment(self, digest: str, lock: Path, python: str) -> Environment:
        """The environment, named `model-<digest>`, of models that brought this lock."""

    def publish(self, access: Access, deployments: Sequence[Deployment]) -> Sequence[LoadResult]:
        """Make exactly these models answer, without failing a request of those that stay.

        Where a model does not load, what answered under its name before goes on answering. Raises
        ComponentFailed where the server itself does not answer.
        """

    def served(self, access: Access, deployments: Sequence[Deployment]) -> Sequence[LoadResult]:
        """Which of these models answer now. Reads only, asks once, and gives up after two seconds.

        Never raises: where nobody can be asked, that is the error of each model.
        """

    def flush(self, access: Access) -> None:
        """Have everything captured so far reach the monitor, as far as both are up."""

    def predict_url(self, access: Access, name: str) -> str: ...


@runtime_checkable
class TokenServer(Protocol):
    """A component with an `outside` port."""

    def take_tokens(self, access: Access, tokens: Tokens) -> Sequence[str]:
        """Have every replica go by these at once; the names of those that did not answer, which read the list
        by themselves soon. Never raises.
        """


@runtime_checkable
class Monitor(Protocol):
    """Drift and bias of deployed models."""

    def report(self, access: Access, name: str | None, take_in: bool) -> Mapping[str, Any]:
        """The verdict that stands of one deployment, or of all: `matcha.api.types.Report`."""


@runtime_checkable
class StepRunner(Protocol):
    """A component that runs pipelines, of which each step may be a job of its own."""

    def steps_env(self, access: Access) -> Mapping[str, Output]:
        """Variables, on top of `client_env`, of whoever leads such a pipeline, and of the jobs of its steps.

        `access` is theirs. Raises NotProvisioned before the first `setup`.
        """

    def steps_code(self) -> Path:
        """A folder for PYTHONPATH of both. What is in it asks for jobs by the socket that MATCHA_STEPS names:
        see `matcha.api.pipelines`.
        """


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
