"""ZenML as a component: one server, the stack registered in it, and what clients need."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from matcha import inside, sqlite
from matcha.access import Access, Output, reachable, shared_url
from matcha.component import Component, Deployment, Holding
from matcha.components.zenml import wiring
from matcha.components.zenml.rest import Server
from matcha.errors import MatchaError, NotProvisioned
from matcha.service import Database, Environment, Port, Probe, Resources, Service, digest_of

HERE = Path(__file__).resolve().parent
VERSION = "0.98.0"
TRACKER = "experiment-tracker"
ARTIFACTS = "pipelines"
ENCRYPTION_KEY = "zenml-encryption-key"  # of the secrets that users keep in ZenML


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """ZenML has none."""


class ZenML(Component):
    """Pipelines that run as local processes and log to the stack's experiment tracker."""

    role = "pipeline"
    flavor = "zenml"
    clients = ("zenml",)
    also = ("orchestrator",)
    title = "ZenML"
    version = VERSION
    requires = (TRACKER,)
    Options: ClassVar[type[msgspec.Struct]] = Options

    def environments(self) -> tuple[Environment, ...]:
        return (
            Environment(
                name="zenml",
                lock=HERE / "requirements.lock",
                warm=HERE / "warm.txt",
                image=f"zenmldocker/zenml-server:{VERSION}",
            ),
        )

    def services(self, deployments: Sequence[Deployment]) -> tuple[Service, ...]:
        return (
            Service(
                name="zenml",
                role=self.role,
                environment="zenml",
                command=(
                    "-m",
                    "matcha_zenml",
                    "--bind",
                    "{bind}",
                    "--port",
                    "{port:http}",
                    "--hosts",
                    "{hosts}",
                ),
                ports=(Port("http", 8237),),
                health=Probe(path="/health"),
                env=_server_env(),
                secrets={
                    "ZENML_DEFAULT_USER_PASSWORD": wiring.PASSWORD,
                    "ZENML_SERVER_JWT_SECRET_KEY": "zenml-jwt-key",
                    "ZENML_SECRETS_STORE_ENCRYPTION_KEY": ENCRYPTION_KEY,
                },
                irreplaceable=(ENCRYPTION_KEY,),
                caches=("config",),
                databases=(Database("zenml", seed=HERE / "seed.sql"),),
                stores=(ARTIFACTS,),
                code=(HERE / "inside", inside.FOLDER),
                resources=Resources(memory=350),
            ),
        )

    def stores(self) -> tuple[str, ...]:
        return (ARTIFACTS,)

    def setup_digest(self) -> str:
        return digest_of(["2", wiring.parts("", "")])

    def setup(self, access: Access) -> None:
        wanted = wiring.parts(access.store(ARTIFACTS), shared_url(access, TRACKER))
        with Server(access.url(self.role)) as server:
            wiring.wire(server, access, wanted)

    def outputs(self, access: Access) -> Mapping[str, Output]:
        return {
            "flavor": Output(self.flavor),
            "server-url": Output(access.url(self.role)),
            "server-username": Output(wiring.ADMINISTRATOR),
            "server-password": Output(access.secret(wiring.PASSWORD), sensitive=True),
        }

    def resources(self, access: Access) -> Mapping[str, Mapping[str, Output]]:
        """ZenML's orchestrator is what runs the steps of its pipelines."""
        [runs] = [p for p in wiring.parts("", "") if p.type == "orchestrator"]
        orchestrator = {"flavor": Output(runs.flavor), "name": Output(runs.name)}
        return {**super().resources(access), "orchestrator": orchestrator}

    def client_env(self, access: Access) -> Mapping[str, Output]:
        """Raises NotProvisioned before the first `setup`.

        Where this machine reaches MLflow on another port than the one that ZenML has, the active stack is one
        for that port, for which ZenML is asked: pipelines take the address from there, not from variables.
        """
        key, stack, project = (
            wiring.kept(access, name) for name in (wiring.KEY, wiring.STACK_ID, wiring.PROJECT_ID)
        )
        if not (key and stack and project):
            raise NotProvisioned("The stack is not registered with its ZenML server yet.")
        tracker = access.url(TRACKER)
        if tracker != shared_url(access, TRACKER):
            stack = self._twin(access, tracker)
        return {
            "ZENML_STORE_URL": Output(access.url(self.role)),
            "ZENML_STORE_API_KEY": Output(key, sensitive=True),
            "ZENML_ACTIVE_STACK_ID": Output(stack),
            "ZENML_ACTIVE_PROJECT_ID": Output(project),
            "ZENML_CONFIG_PATH": Output(str(access.folder("zenml-client"))),
            # ZenML's, though not by its name: it would write key and tokens there, for everybody to read.
            "DISABLE_CREDENTIALS_DISK_CACHING": Output("true"),
            "ZENML_ANALYTICS_OPT_IN": Output("false"),
            "ZENML_AUTO_OPEN_DASHBOARD": Output("false"),
        }

    def steps_env(self, access: Access) -> Mapping[str, Output]:
        """`matcha.component.StepRunner`: the active stack is one whose steps are jobs."""
        with Server(reachable(access).url(self.role)) as server:
            server.login(password=access.secret(wiring.KEY))
            stack = wiring.ensure_twin(server, access.url(TRACKER), steps=True)
        # Of what failed in a step, the leader's frames say nothing: plain, they take a few lines.
        plain = os.environ.get("ZENML_ENABLE_RICH_TRACEBACK", "false")
        return {"ZENML_ACTIVE_STACK_ID": Output(stack), "ZENML_ENABLE_RICH_TRACEBACK": Output(plain)}

    def steps_code(self) -> Path:
        return HERE / "orchestrator" / "inside"

    def _twin(self, access: Access, tracker: str) -> str:
        """Id of the ZenML stack for machines that reach MLflow at `tracker`; made where there is none."""
        with Server(reachable(access).url(self.role)) as server:
            server.login(password=access.secret(wiring.KEY))
            return wiring.ensure_twin(server, tracker)

    def holdings(self, access: Access) -> tuple[Holding, ...]:
        database = access.database("zenml")
        count = sqlite.count(database, "SELECT count(*) FROM pipeline_run") if database else _asked(access)
        return (Holding(count, "pipeline runs"),) if count else ()


def _server_env() -> dict[str, str]:
    return {
        "ZENML_CONFIG_PATH": "{volume:config}",
        "ZENML_STORE_URL": "{database:zenml}",
        "ZENML_SECRETS_STORE_TYPE": "sql",  # without it the encryption key is ignored
        "ZENML_DEFAULT_USER_NAME": wiring.ADMINISTRATOR,
        "ZENML_ANALYTICS_OPT_IN": "false",
        "ZENML_LOGGING_COLORS_DISABLED": "true",
        # Failed logins from one address; a success forgets them.
        "ZENML_SERVER_RATE_LIMIT_ENABLED": "true",
        "ZENML_SERVER_LOGIN_RATE_LIMIT_MINUTE": "30",
        "ZENML_SERVER_LOGIN_RATE_LIMIT_DAY": "20000",
        # The dashboard shows logs and artifacts of a store that is a folder here.
        "ZENML_SERVER_ALLOW_LOCAL_FILE_ACCESS": "true",
        "ZENML_SERVER_SECURE_HEADERS_HSTS": "false",
    }


def _asked(access: Access) -> int:
    """Where the database is no file here: what the server says."""
    try:
        with Server(access.url(ZenML.role), timeout=10) as server:
            return int(server.get("/runs", size=1)["total"]) if wiring.log_in(server, access) else -1
    except NotProvisioned:
        return 0
    except MatchaError:
        return -1
