"""Registers the stack with its ZenML server. Every step looks before it makes, so it can be cut anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from matcha.access import Access
from matcha.components.zenml.rest import Refused, Server
from matcha.errors import NotProvisioned

ADMINISTRATOR = "admin"
NAME = "matcha"  # of the service account, its key and the ZenML stack
PROJECT = "default"

# What the target keeps between commands.
PASSWORD = "zenml-admin-password"  # noqa: S105 - the name of a secret
KEY = "zenml-api-key"
STACK_ID = "zenml-stack-id"
PROJECT_ID = "zenml-project-id"

# The orchestrator whose steps are jobs: ZenML imports it where a pipeline runs, and never in its server.
STEPS = {
    "name": "matcha",
    "type": "orchestrator",
    "source": "matcha_steps.flavor.StepsFlavor",
    "config_schema": {"type": "object", "properties": {}},
    "integration": None,
    "is_custom": True,
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ARTIFACT_STORES = {"s3": "s3", "az": "azure", "abfs": "azure", "abfss": "azure"}


class Part(msgspec.Struct, frozen=True):
    """A component of the ZenML stack."""

    type: str
    flavor: str
    configuration: dict[str, str] = msgspec.field(default_factory=dict)

    suffix: str = ""  # of the name

    @property
    def name(self) -> str:
        return f"{NAME}-{self.type.replace('_', '-')}{self.suffix}"

    def described(self) -> dict[str, Any]:
        """As ZenML's API takes it."""
        about = {"name": self.name, "type": self.type, "flavor": self.flavor}
        return {**about, "configuration": self.configuration}


def parts(artifacts: str, tracker: str) -> tuple[Part, ...]:
    """What the ZenML stack consists of, given the address of its artifacts and MLflow's URL."""
    scheme = artifacts.partition("://")[0] if "://" in artifacts else ""
    return (
        Part("orchestrator", "local"),
        Part("artifact_store", ARTIFACT_STORES.get(scheme, "local"), {"path": artifacts}),
        tracking(tracker),
        Part("model_registry", "mlflow"),
    )


def tracking(url: str, suffix: str = "") -> Part:
    # ZenML wants credentials with an http address; this MLflow asks for none.
    mlflow = {"tracking_uri": url, "tracking_username": NAME, "tracking_password": "unused"}
    return Part("experiment_tracker", "mlflow", mlflow, suffix)


def ensure_twin(server: Server, tracker: str, *, steps: bool = False) -> str:
    """Id of a stack like Matcha's whose experiment tracker is at `tracker`, named after its port, and after
    its host where that is not whoever asks. With `steps` its orchestrator is the one whose steps are jobs.

    Raises NotProvisioned before `wire`.
    """
    base = server.find("/stacks", name=NAME)
    if base is None:
        raise NotProvisioned("The stack is not registered with its ZenML server yet.")
    where = urlsplit(tracker)
    suffix = f"-{where.port}" if where.hostname in LOOPBACK else f"-{where.hostname}-{where.port}"
    part = tracking(tracker, suffix)
    found = server.find("/components", name=part.name, type=part.type)
    ids = {kind: str(held[0]["id"]) for kind, held in base["metadata"]["components"].items()}
    ids[part.type] = ensure_component(server, part, found)
    if steps:
        ids["orchestrator"], suffix = ensure_steps(server), f"{suffix}-steps"
    return ensure_stack(server, ids, NAME + suffix)


def ensure_steps(server: Server) -> str:
    """Id of the orchestrator whose steps are jobs."""
    flavor = server.find("/flavors", name=str(STEPS["name"]), type="orchestrator")
    if flavor is None:
        server.post("/flavors", STEPS)
    elif flavor["body"]["source"] != STEPS["source"]:
        server.put(f"/flavors/{flavor['id']}", {"source": STEPS["source"]})
    part = Part("orchestrator", str(STEPS["name"]), suffix="-steps")
    return ensure_component(server, part, server.find("/components", name=part.name, type=part.type))


def wire(server: Server, access: Access, wanted: tuple[Part, ...]) -> None:
    """Log in, register, and keep the ids that clients need."""
    ensure_login(server, access)
    listed = server.get("/components", name=f"startswith:{NAME}-", size=100, hydrate="true")["items"]
    have = {(item["body"]["type"], item["name"]): item for item in listed}
    ids = {part.type: ensure_component(server, part, have.get((part.type, part.name))) for part in wanted}
    stack = ensure_stack(server, ids)
    keep(access, PROJECT_ID, str(server.get(f"/projects/{PROJECT}")["id"]))
    keep(access, STACK_ID, stack)


def ensure_login(server: Server, access: Access) -> None:
    """By the kept key; where there is none or ZenML does not know it, as administrator, who makes one."""
    if not log_in(server, access):
        server.login(username=ADMINISTRATOR, password=access.secret(PASSWORD))
        access.keep_secret(KEY, new_key(server))


def log_in(server: Server, access: Access) -> bool:
    key = kept(access, KEY)
    if not key:
        return False
    try:
        server.login(password=key)
    except Refused:
        return False
    return True


def new_key(server: Server) -> str:
    """ZenML tells a key only once: one that a killed run did not keep is replaced."""
    account = ensure_account(server)
    keys = f"/service_accounts/{account}/api_keys"
    found = server.find(keys, name=NAME)
    if found is None:
        made = server.post(keys, {"name": NAME, "description": "Clients of this stack"})
    else:
        server.put(f"{keys}/{found['id']}", {"active": True})
        made = server.put(f"{keys}/{found['id']}/rotate", {"retain_period_minutes": 0})
    return str(made["body"]["key"])


def ensure_account(server: Server) -> str:
    found = server.find("/service_accounts", name=NAME)
    if found is None:
        wanted = {"name": NAME, "active": True, "description": "Made by Matcha for the clients of this stack"}
        found = server.post("/service_accounts", wanted)
    elif not found["body"]["active"]:
        server.put(f"/service_accounts/{found['id']}", {"active": True})
    return str(found["id"])


def ensure_component(server: Server, part: Part, found: Mapping[str, Any] | None) -> str:
    """`found` is what ZenML has under that name."""
    if found is None:
        found = server.post("/components", part.described())
    elif _differs(found["metadata"]["configuration"], part.configuration):
        server.put(f"/components/{found['id']}", {"configuration": part.configuration})
    return str(found["id"])


def _differs(have: Mapping[str, Any], want: Mapping[str, str]) -> bool:
    """ZenML may show defaults that nobody set."""
    return any(have.get(key) != value for key, value in want.items())


def ensure_stack(server: Server, ids: Mapping[str, str], name: str = NAME) -> str:
    """Leaves components of other types, which a user may have added."""
    want = {type_: [id_] for type_, id_ in ids.items()}
    found = server.find("/stacks", name=name)
    if found is None:
        return str(server.post("/stacks", {"name": name, "components": want})["id"])
    have = {t: [str(c["id"]) for c in held] for t, held in found["metadata"]["components"].items()}
    if {**have, **want} != have:
        server.put(f"/stacks/{found['id']}", {"components": {**have, **want}})
    return str(found["id"])


def kept(access: Access, name: str) -> str:
    """Empty before the first setup."""
    try:
        return access.secret(name)
    except NotProvisioned:
        return ""


def keep(access: Access, name: str, value: str) -> None:
    if kept(access, name) != value:
        access.keep_secret(name, value)
