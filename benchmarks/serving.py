"""A model in a cluster, asked through its Service from within: served by Matcha, every request captured,
and by a bare MLServer in a Deployment of its own. Both have one pod, the same environment, laid out by the
same init container, and the same requests of CPU and memory; each is idle while the other is asked.

Then how long another replica takes, from the number that is asked for to its being ready.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import inference, places, stack
from benchmarks.figures import Asked, Budget, Row
from benchmarks.jobs import AUTHORITIES, IMAGE
from benchmarks.kubernetes import SECONDS, built, namespace, script
from benchmarks.load import Burst

CLIENTS = (1, 16)
LASTS = 8.0
SIDES = ("mlserver", "bare")
STACK = """\
target: kubernetes
targets:
  kubernetes: {{namespace: {namespace}, image: {image}, storage-size: 2Gi, database-size: 1Gi{trust}}}
components: {{pipeline: null, data-version-control: null, model-deployer: {{flavor: mlserver, cpu: 0.1}}}}
"""
ASK = """
import json, sys
sys.path.insert(0, "/code")
from load import burst
found = burst(sys.argv[1], sys.argv[2].encode(), clients=int(sys.argv[3]), seconds=float(sys.argv[4]))
print(json.dumps([found.per_second, found.p99]))
"""
SERVE = """
import json, os
import mlflow.artifacts
os.makedirs("/models/bench", exist_ok=True)
uri = mlflow.artifacts.download_artifacts("models:/bench/1", dst_path="/models/bench/model")
settings = {"name": "bench", "implementation": "mlserver_mlflow.MLflowRuntime", "parameters": {"uri": uri}}
with open("/models/bench/model-settings.json", "w") as file:
    json.dump(settings, file)
with open("/models/settings.json", "w") as file:
    json.dump({"parallel_workers": 0}, file)
"""
START = "from mlserver.cli import main; main()"


class Bench:
    def __init__(self, project: stack.Project, kubeconfig: Path, space: str) -> None:
        self._project = project
        self._kubeconfig = kubeconfig
        self._space = space
        self._program = built() / "kubectl"

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        command = [str(self._program), f"--kubeconfig={self._kubeconfig}", f"--namespace={self._space}"]
        done = subprocess.run(
            [*command, *arguments], input=stdin, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(
                f"kubectl {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def provision(self) -> None:
        trust = f", ca-bundle: {AUTHORITIES}" if AUTHORITIES.exists() else ""
        text = STACK.format(namespace=self._space, image=IMAGE, trust=trust)
        self._project.folder.mkdir(parents=True)
        (self._project.folder / "matcha.yaml").write_text(text)
        self._project("provision", "--yes")
        python = places.installed()["mlserver"] / "bin" / "python"
        tracker = self._project.json("get")["experiment-tracker"]["tracking-url"]
        with places.scratch() as folder:
            inference.train(python, folder / "model", tracker, folder)
        self._project("deploy", f"models:/{inference.NAME}/1", "--name", inference.NAME)

    def make_the_rest(self) -> None:
        """The bare server, and the pod that asks both."""
        theirs = json.loads(self.kubectl("get", "deployment", "mlserver", "--output=json"))
        code = {"load.py": Path(__file__).with_name("load.py").read_text(encoding="utf-8"), "ask.py": ASK}
        for document in (*_bare(theirs), _config("asking", code), _asking()):
            self.kubectl("apply", "--filename=-", stdin=json.dumps(document))
        self.kubectl("wait", "pod/asking", "--for=condition=Ready", "--timeout=120s")
        self.kubectl("rollout", "status", "deployment/bare", "--timeout=600s")

    def burst(self, side: str, clients: int, seconds: float) -> Burst:
        url = f"http://{side}:8080/v2/models/{inference.NAME}/infer"
        asked = ("python", "/code/ask.py", url, inference.body().decode(), str(clients), str(seconds))
        return Burst(*json.loads(self.kubectl("exec", "asking", "--", *asked)))

    def scale(self, side: str) -> float:
        """Seconds until a second pod is ready; it is gone again afterwards."""
        deployment = f"deployment/{side}"
        began = time.monotonic()
        self.kubectl("scale", deployment, "--replicas=2")
        self.kubectl("wait", deployment, "--for=jsonpath={.status.readyReplicas}=2", "--timeout=600s")
        took = time.monotonic() - began
        self.kubectl("scale", deployment, "--replicas=1")
        self.kubectl("wait", deployment, "--for=jsonpath={.status.replicas}=1", "--timeout=120s")
        return took


def run(asked: Asked) -> list[Row]:
    bursts: defaultdict[tuple[str, int], list[Burst]] = defaultdict(list)
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    with places.scratch() as folder:
        state = folder / "state"
        kubeconfig, space = state / "admin.kubeconfig", namespace()
        try:
            script("up", state, env=places.user_env(), check=True)
            with stack.project(KUBECONFIG=str(kubeconfig)) as project:
                bench = Bench(project, kubeconfig, space)
                bench.provision()
                bench.make_the_rest()
                _measure(asked, bench, bursts, seconds)
        finally:
            script("down", state, env=places.user_env(), check=False)
    return [*_rows(bursts), _scale_out(seconds)]


def _measure(
    asked: Asked,
    bench: Bench,
    bursts: defaultdict[tuple[str, int], list[Burst]],
    seconds: defaultdict[str, list[float]],
) -> None:
    def asking(side: str, clients: int) -> Callable[[], None]:
        return lambda: bursts[side, clients].append(bench.burst(side, clients, LASTS))

    def scaling(side: str) -> Callable[[], None]:
        return lambda: seconds[side].append(bench.scale(side))

    for side in SIDES:
        bench.burst(side, 4, 3.0)
    for clients in CLIENTS:
        asked.say(f"clients: {clients}")
        asked.take_turns([asking(side, clients) for side in SIDES])
    asked.say("another replica")
    asked.take_turns([scaling(side) for side in SIDES])


def _bare(theirs: dict[str, Any]) -> list[dict[str, Any]]:
    """A Deployment and its Service: Matcha's pod with `mlserver start` of the same saved model."""
    pod = theirs["spec"]["template"]["spec"]
    marks = {"app": "bare"}
    [container], [unpacking] = pod["containers"], pod["initContainers"]
    models = {"name": "models", "mountPath": "/models"}
    mounts = [
        *(m for m in container["volumeMounts"] if m["name"] in ("tmp", "environment", "ca-bundle")),
        models,
    ]
    plain = {n: container[n] for n in ("image", "securityContext", "resources", "command")}
    usual = [v for v in container["env"] if v["name"] in ("HOME", "MLFLOW_TRACKING_URI", "DO_NOT_TRACK")]
    ready = {**container["readinessProbe"], "failureThreshold": 60}
    ready["httpGet"] = {"path": "/v2/health/ready", "port": 8080}
    server = {
        **plain,
        "name": "bare",
        "args": ["-c", START, "start", "/models"],
        "env": usual,
        "volumeMounts": mounts,
        "readinessProbe": ready,
    }
    fetching = {**plain, "name": "model", "args": ["-c", SERVE], "env": usual, "volumeMounts": mounts}
    used = {m["name"] for m in (*mounts, *unpacking["volumeMounts"])}
    kept = {
        n: pod[n]
        for n in ("securityContext", "serviceAccountName", "automountServiceAccountToken")
        if n in pod
    }
    spec = {
        **kept,
        "initContainers": [unpacking, fetching],
        "containers": [server],
        "volumes": [
            *(v for v in pod["volumes"] if v["name"] in used),
            {"name": "models", "emptyDir": {}},
        ],
    }
    template = {"metadata": {"labels": marks}, "spec": spec}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "bare"},
            "spec": {"replicas": 1, "selector": {"matchLabels": marks}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "bare"},
            "spec": {"selector": marks, "ports": [{"port": 8080}]},
        },
    ]


def _config(name: str, data: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def _asking() -> dict[str, Any]:
    locked = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "asking",
        "image": IMAGE,
        "command": ["sleep", "infinity"],
        "securityContext": locked,
        "volumeMounts": [{"name": "code", "mountPath": "/code"}],
    }
    spec = {
        "containers": [container],
        "volumes": [{"name": "code", "configMap": {"name": "asking"}}],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": 1,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asking"}, "spec": spec}


def _rows(bursts: dict[tuple[str, int], list[Burst]]) -> list[Row]:
    rows = []
    for clients in CLIENTS:
        who = "1 client" if clients == 1 else f"{clients} clients"
        ours, plain = (bursts[side, clients] for side in SIDES)
        for what, unit, figure, budget in (
            ("requests a second", "/s", "per_second", Budget("ratio", ">=", 0.95)),
            ("p99", "ms", "p99", Budget("ratio", "<=", 1.1)),
        ):
            sides = (tuple(getattr(burst, figure) for burst in side) for side in (ours, plain))
            rows.append(Row("serving", f"{what} through the Service, {who}", unit, *sides, budget))
    return rows


def _scale_out(seconds: dict[str, list[float]]) -> Row:
    ours, plain = (tuple(seconds[side]) for side in SIDES)
    return Row("serving", "until another replica is ready", "s", ours, plain)
