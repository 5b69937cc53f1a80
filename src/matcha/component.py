"""The contract between components and everything else. Nothing here names a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

import msgspec

from matcha.access import Access, Output
from matcha.service import (
    Environment,
    Service,
    digest_of,
)

Cores = Annotated[float, msgspec.Meta(ge=0.01, le=128)]
Mebibytes = Annotated[int, msgspec.Meta(ge=100, le=2_000_000)]


# Settings of a deployment that are its process's, not of what that serves.
ROOM = ("min_replicas", "max_replicas", "cpu", "memory_mb")


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


class Holding(msgspec.Struct, frozen=True):
    """Something of which the stack may hold the only copy, such as (3, "runs"). -1: could not be counted."""

    count: int
    what: str


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
        """Object-store areas that its clients use themselves, without a service in between: users' code on
        their machines, and in jobs. Those that services use are theirs to name.
        """
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
