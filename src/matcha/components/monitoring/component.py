"""Matcha's own monitoring as a component: captured traffic in, windows of drift out."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import quote

import msgspec

from matcha import inside
from matcha.access import Access, Output, SharedAccess
from matcha.component import Component, Deployment
from matcha.errors import MatchaError, NotFound, NotProvisioned
from matcha.service import Environment, Port, Probe, Resources, Service

HERE = Path(__file__).resolve().parent
TOKEN = "capture-token"  # noqa: S105 - the name of the secret
STORE = "monitoring"
WORK = "monitoring-work"  # the service that makes windows apart, and its role
WINDOW_SECONDS = 930.0  # a little more than the service itself waits for its work
SECONDS = 15.0
LISTEN = ("--bind", "{bind}", "--port", "{port:http}", "--hosts", "{hosts}")
ENV = {
    "MATCHA_STORE": f"{{store:{STORE}}}",
    "MLFLOW_TRACKING_URI": "{url:experiment-tracker}",
    "MALLOC_ARENA_MAX": "2",
    "DO_NOT_TRACK": "1",
}
LINKS = {"MLflow": "experiment-tracker", "ZenML": "pipeline"}

_Share = Annotated[float, msgspec.Meta(gt=0, le=10)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Rows = Annotated[int, msgspec.Meta(ge=1)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="kebab"):
    """`interval-minutes` and `window-rows`: a window is made by itself when either is reached.

    `min-rows`: fewer rows give no verdict. `drift-threshold`: the least difference that counts, in standard
    deviations (Wasserstein distance); raised by itself where windows are too small to tell it from chance.
    `retention-days` and `retention-rows` (for each version): captures beyond are removed. `work-memory-mb`:
    how much memory, in MiB, making a window may use in a cluster, where a pod of its own does it.
    """

    interval_minutes: _Positive = 60
    window_rows: _Rows = 1000
    min_rows: _Rows = 100
    drift_threshold: _Share = 0.2
    retention_days: _Positive = 30
    retention_rows: _Rows = 1_000_000
    work_memory_mb: Annotated[int, msgspec.Meta(ge=512, le=2**20)] = 4096


class Monitoring(Component):
    """Captures what models were asked and answered, and compares it with their training data."""

    role = "monitoring"
    flavor = "evidently"
    title = "Monitoring"
    version = "0.7.23"  # Evidently's
    requires = ("experiment-tracker",)
    Options: ClassVar[type[msgspec.Struct]] = Options

    def environments(self) -> tuple[Environment, ...]:
        return (Environment(name="monitoring", lock=HERE / "requirements.lock", warm=HERE / "warm.txt"),)

    def services(self, deployments: Sequence[Deployment]) -> tuple[Service, ...]:
        return (self._main(deployments), self._work())

    def _main(self, deployments: Sequence[Deployment]) -> Service:
        return _service(
            name="monitoring",
            role=self.role,
            command=("-m", "matcha_monitoring", *LISTEN),
            ports=(Port("http", 8090),),
            env={
                "MATCHA_DATA": "{volume:captures}",
                "MATCHA_SETTINGS": "{files}/settings.json",
                "MATCHA_DEPLOYMENTS": "{live}/deployments.json",
                "MATCHA_APART": f"{{url:{WORK}}}",
                **ENV,
            },
            volumes=("captures",),
            files={"settings.json": _json(msgspec.structs.asdict(self.options))},
            live={"deployments.json": _json(deployments)},
            talks_to=("experiment-tracker", WORK),
            resources=Resources(memory=400),
        )

    def _work(self) -> Service:
        """Asks for little, as it mostly waits; what it takes for a window ends nobody else."""
        assert isinstance(self.options, Options)
        return _service(
            name=WORK,
            role=WORK,
            command=("-m", "matcha_monitoring.working", *LISTEN),
            ports=(Port("http", 8091),),
            env={"MATCHA_DATA": "{volume:work}", **ENV},
            caches=("work",),
            talks_to=("experiment-tracker",),
            resources=Resources(memory=128, most=self.options.work_memory_mb),
            apart=True,
        )

    def setup_digest(self) -> str:
        return "links-2"

    def setup(self, access: Access) -> None:
        """Tell the page where a person finds the other tools, unless everybody who looks at it finds them
        elsewhere. Raises MatchaError.
        """
        links = {}
        for name, role in () if isinstance(access, SharedAccess) else LINKS.items():
            with contextlib.suppress(NotProvisioned):
                links[name] = access.url(role)
        headers = {"Authorization": f"Bearer {access.secret(TOKEN)}"}
        _ask(access, "PUT", "/v1/links", SECONDS, body=links, headers=headers)

    def outputs(self, access: Access) -> Mapping[str, Output]:
        return {"flavor": Output(self.flavor), "dashboard-url": Output(access.url(self.role))}

    def report(self, access: Access, name: str | None, take_in: bool) -> Mapping[str, Any]:
        """The verdict that stands of one deployment; for all: {"deployments": [verdict, ...]}.

        Raises NotFound for a name the service does not know, and MatchaError.
        """
        if name is None:
            known = _ask(access, "GET", "/v1/deployments", SECONDS)
            return {"deployments": [self.report(access, d["name"], take_in) for d in known]}
        path = f"/v1/deployments/{quote(name, safe='')}/windows"
        found: Mapping[str, Any] = _ask(access, "POST", path, WINDOW_SECONDS, body={"take_in": take_in})
        return found


def _service(**special: Any) -> Service:
    """What both have in common."""
    return Service(
        environment="monitoring",
        health=Probe(path="/healthz"),
        secrets={"MATCHA_CAPTURE_TOKEN": TOKEN},
        stores=(STORE,),
        code=(HERE / "inside", inside.FOLDER),
        **special,
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _ask(
    access: Access,
    verb: str,
    path: str,
    seconds: float,
    *,
    body: object = None,
    headers: Mapping[str, str] = {},
) -> Any:
    import httpx  # noqa: PLC0415 - slow to import, and most commands never ask

    url = access.url(Monitoring.role)
    try:
        with httpx.Client(base_url=url, timeout=httpx.Timeout(seconds, connect=5), trust_env=False) as client:
            answer = client.request(verb, path, json=body, headers=dict(headers))
    except httpx.HTTPError as error:
        raise MatchaError(
            "The monitoring service does not answer.", details=str(error), resolution="matcha status"
        ) from error
    if answer.is_success:
        return answer.json() if answer.content else None
    raise _failure(answer.status_code, answer.text)


def _failure(status: int, text: str) -> MatchaError:
    try:
        said = dict(msgspec.json.decode(text))
    except (msgspec.MsgspecError, TypeError, ValueError):
        said = {"error": text[:500] or f"Status {status}."}
    if status == 404 and "known" in said:
        known = ", ".join(said["known"]) or "nothing"
        return NotFound(said["error"], details=f"Known to monitoring: {known}.", resolution="matcha models")
    details = said.get("details") or ""
    return MatchaError(
        f"Monitoring failed: {said.get('error')}",
        details=details[-2000:],
        resolution="matcha logs monitoring",
    )
