"""MLServer as a component: one server for all models, and one more for each environment that models bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import quote

import msgspec

from matcha import inside
from matcha.access import Access, Output, public_url
from matcha.component import Component, Cores, Deployment, LoadResult, Mebibytes, ModelVersion, Tokens
from matcha.components.mlserver import fitting, publishing, replicas
from matcha.service import Environment, Port, Probe, Replicas, Resources, Scale, Service, check_replicas

HERE = Path(__file__).resolve().parent
VERSION = "1.7.1"
PYTHON = ">=3.10,<3.13"
TRACKER = "experiment-tracker"
MONITOR = "monitoring"
SECRETS = {"MATCHA_SERVING_TOKEN": publishing.TOKEN, "MATCHA_CAPTURE_TOKEN": "capture-token"}
COMMAND = ("-m", "matcha_serving", "--bind", "{bind}", "--http-port", "{port:http}")
STOP_SECONDS = 25  # requests under way, and clients that keep their connection, get their answers first
OUTSIDE = {
    "MATCHA_APPLICATIONS_FILE": "{outside:tokens}",
    "MATCHA_APPLICATIONS_HOSTS": "{outside:hosts}",
    "MATCHA_APPLICATIONS_RATE": "{outside:rate}",
}
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """`max-body-mb`: the largest request that is read, in MiB.

    `load-seconds`: how long one model may load.

    `min-replicas` and `max-replicas` (as many as `min-replicas` where it is left out): of each server, where
    the target runs more than one; as many as keep the CPU of each at `target-cpu` percent of what it asks
    for. `cpu` (cores) and `memory-mb` (MiB): what each replica asks for.
    """

    max_body_mb: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 32
    load_seconds: Annotated[int, msgspec.Meta(ge=1, le=1500)] = 600
    min_replicas: Replicas = 1
    max_replicas: Replicas | None = None
    target_cpu: Annotated[int, msgspec.Meta(ge=10, le=1000)] = 70
    cpu: Cores = 0.5
    memory_mb: Mebibytes = 400

    def __post_init__(self) -> None:
        check_replicas(self.min_replicas, self.max_replicas)


class MLServer(Component):
    """Serves MLflow models by the Open Inference Protocol (V2), over HTTP and gRPC, at one address."""

    role = "model-deployer"
    flavor = "mlserver"
    title = "MLServer"
    version = VERSION
    requires = (TRACKER,)
    Options: ClassVar[type[msgspec.Struct]] = Options

    def serving_lock(self) -> Environment:
        return Environment(
            name="mlserver", lock=HERE / "requirements.lock", python=PYTHON, warm=HERE / "warm.txt"
        )

    def environments(self) -> tuple[Environment, ...]:
        return (self.serving_lock(),)

    def model_environment(self, digest: str, lock: Path, python: str) -> Environment:
        minor = ".".join(python.split(".")[:2])
        return Environment(
            name=f"model-{digest}",
            lock=lock,
            python=f"=={minor}.*" if minor else PYTHON,
            warm=HERE / "warm.txt",
        )

    def services(self, deployments: Sequence[Deployment]) -> tuple[Service, ...]:
        children = {process: d for d in deployments if (process := publishing.process_of(d))}
        live = {"deployments.json": publishing.body(deployments)}
        return (self._main(live), *(self._child(name, children[name], live) for name in sorted(children)))

    def _main(self, live: dict[str, str]) -> Service:
        numbers = {"grpc": "{port:grpc}", "metrics": "{port:metrics}", "applications": "{outside:port}"}
        more = [part for name, number in numbers.items() for part in (f"--{name}-port", number)]
        return self._service(
            {},
            name="mlserver",
            role=self.role,
            environment="mlserver",
            command=(*COMMAND, *more),
            ports=(Port("http", 8080), Port("grpc", 8081, "grpc"), Port("metrics", 8082)),
            env={**self._env(), **OUTSIDE, "MATCHA_CAPTURE_URL": f"{{url:{MONITOR}}}"},
            secrets=SECRETS,
            live=live,
            talks_to=(TRACKER, MONITOR),
            for_applications=("http", "grpc"),
            outside=Port("applications", 8083),
        )

    def _child(self, name: str, deployment: Deployment, live: dict[str, str]) -> Service:
        """Serves the models of one environment, or one model; the main server guards, captures and forwards
        for it. `deployment` is one of them.
        """
        own = f"model-{deployment.environment}" if deployment.environment else self.serving_lock().name
        return self._service(
            deployment.settings if deployment.dedicated else {},
            name=name,
            role=name,
            environment=own,
            command=COMMAND,
            ports=(Port("http", 8100),),
            env={**self._env(), "MATCHA_PROCESS": name},
            secrets={"MATCHA_SERVING_TOKEN": publishing.TOKEN},
            live=live,
            talks_to=(TRACKER,),
            called_by=(self.role,),
        )

    def _service(self, room: Mapping[str, Any], **special: Any) -> Service:
        """What all kinds of process have in common. `room`: what is not as the options say."""
        usual = _options(self.options)
        least = room.get("min_replicas", usual.min_replicas)
        most = room.get("max_replicas", usual.max_replicas) or least
        if "min_replicas" not in room:  # then its own most is what was meant
            least = min(least, most)
        return Service(
            # Live, and not ready: a server that loads models is not ill, and must not be restarted for it.
            health=Probe(path="/v2/health/live", ready="/matcha/ready"),
            conceal=True,  # it runs the code of models
            caches=("models",),
            code=(HERE / "inside", inside.FOLDER),
            resources=Resources(
                cpu=room.get("cpu", usual.cpu), memory=room.get("memory_mb", usual.memory_mb)
            ),
            scale=Scale(min=least, max=max(least, most), cpu=usual.target_cpu),
            stop_seconds=STOP_SECONDS,
            **special,
        )

    def _env(self) -> dict[str, str]:
        options = _options(self.options)
        return {
            "MATCHA_DEPLOYMENTS": "{live}/deployments.json",
            "MATCHA_HOSTS": "{hosts}",
            "MATCHA_LOAD_SECONDS": str(options.load_seconds),
            "MATCHA_MAX_BODY_MB": str(options.max_body_mb),
            "MATCHA_MODELS_DIR": "{volume:models}",
            "MLFLOW_TRACKING_URI": f"{{url:{TRACKER}}}",
            **QUIET,
        }

    def outputs(self, access: Access) -> Mapping[str, Output]:
        public = public_url(access, self.role)
        return {
            "flavor": Output(self.flavor),
            "base-url": Output(access.url(self.role)),
            "grpc-url": Output(access.address(self.role, "grpc")),
            "metrics-url": Output(f"http://{access.address(self.role, 'metrics')}/metrics"),
            **({"public-url": Output(public)} if public else {}),
        }

    def client_env(self, access: Access) -> Mapping[str, Output]:
        return {"MATCHA_SERVING_URL": Output(access.url(self.role))}

    def own_environment(self, model: ModelVersion, python: str = "") -> tuple[str, ...]:
        """`fitting` says what fits."""
        return fitting.own_environment(model, self.serving_lock(), HERE / "requirements.in", python)

    def publish(self, access: Access, deployments: Sequence[Deployment]) -> Sequence[LoadResult]:
        return publishing.publish(access, self.role, deployments)

    def served(self, access: Access, deployments: Sequence[Deployment]) -> Sequence[LoadResult]:
        return publishing.served(access, self.role, deployments)

    def flush(self, access: Access) -> None:
        replicas.flush(access, self.role)

    def take_tokens(self, access: Access, tokens: Tokens) -> Sequence[str]:
        return replicas.take_tokens(access, self.role, tokens)

    def predict_url(self, access: Access, name: str) -> str:
        return f"{access.url(self.role)}/v2/models/{quote(name, safe='')}/infer"


def _options(found: msgspec.Struct) -> Options:
    assert isinstance(found, Options)
    return found
