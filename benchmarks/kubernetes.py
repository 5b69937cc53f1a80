"""The manifests of one stack on a real cluster: by Matcha, by `kubectl apply` and by `helm install --wait`.
On Matcha's, then, how long a short command keeps its user waiting.

The stack is MLflow and ZenML with their database and object store: official images throughout, since kubectl
and Helm could not build environments. The cluster is the tests' own (tests/e2e/cluster; root); its API server
notes every request, and counts are by the client that sent them. Passwords, for which the manifests have
placeholders, are made beforehand for kubectl and Helm and are not in their time. For all three MLflow comes
up once its database is there, which the same Job makes.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks import places, stack
from benchmarks.commands import COMMANDS
from benchmarks.figures import Asked, Budget, Row

SCRIPTS = Path(__file__).resolve().parents[1] / "tests" / "e2e" / "cluster"
AGENTS = {"matcha": "python-httpx", "kubectl": "kubectl/", "helm": "Helm/"}
SECONDS = 900.0
SHORT = Budget("value", "<=", 1.0)  # of a command that changes nothing, through the API server
WORKLOADS = ("Deployment", "StatefulSet")
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}
STACK = """\
target: kubernetes
targets:
  kubernetes: {{namespace: {namespace}, storage-size: 1Gi, database-size: 1Gi}}
components: {{model-deployer: null, monitoring: null}}
"""


class Bench:
    def __init__(self, folder: Path, programs: Path, state: Path) -> None:
        self.folder = folder
        self.programs = programs
        self.kubeconfig = state / "admin.kubeconfig"
        self.audit = state / "audit.log"
        self.took: defaultdict[str, list[float]] = defaultdict(list)
        self._read = 0

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self._run("kubectl", arguments, stdin)

    def helm(self, *arguments: str) -> str:
        return self._run("helm", arguments)

    def _run(self, program: str, arguments: tuple[str, ...], stdin: str = "") -> str:
        command = [str(self.programs / program), f"--kubeconfig={self.kubeconfig}", *arguments]
        env = places.user_env(HOME=str(self.folder))
        done = subprocess.run(
            command, env=env, input=stdin, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    @contextlib.contextmanager
    def measured(self, side: str, what: str) -> Iterator[None]:
        """Seconds, and how many requests the side's client sent meanwhile."""
        self._requests(side)
        began = time.monotonic()
        yield
        self.took[f"{side} {what}"].append(time.monotonic() - began)
        time.sleep(1.0)  # the API server writes its log behind the answers
        self.took[f"{side} {what} calls"].append(self._requests(side))

    def _requests(self, side: str) -> int:
        """Since the last time. A watch counts when it begins or ends, as it stands in the log twice."""
        with self.audit.open(encoding="utf-8") as log:
            log.seek(self._read)
            lines = log.readlines()
            self._read = log.tell()
        found = map(json.loads, lines)
        mine = [e for e in found if str(e.get("userAgent", "")).startswith(AGENTS[side])]
        return len({e["auditID"] for e in mine})

    # -- the three sides ---------------------------------------------------------------------------------

    def matcha(self) -> None:
        name = namespace()
        with stack.project(KUBECONFIG=str(self.kubeconfig)) as project:
            (project.folder).mkdir(parents=True)
            (project.folder / "matcha.yaml").write_text(STACK.format(namespace=name))
            with self.measured("matcha", "first"):
                project("provision", "--yes")
            with self.measured("matcha", "again"):
                project("provision", "--yes")
            for what, words in COMMANDS.items():
                self.took[what].append(project.timed(*words))

    def by_kubectl(self) -> None:
        with self._manifests() as (name, documents):
            file = self.folder / "manifests.yaml"
            _write(file, documents)
            apply = ("apply", "--server-side", "--filename", str(file))
            wait = [
                ("rollout", "status", f"--namespace={name}", f"{kind.lower()}/{each}", "--timeout=600s")
                for kind, each in _workloads(documents)
            ]
            for what in ("first", "again"):
                with self.measured("kubectl", what):
                    self.kubectl(*apply)
                    for each in wait:
                        self.kubectl(*each)

    def by_helm(self) -> None:
        with self._manifests() as (name, documents):
            chart = self.folder / "chart"
            (chart / "templates").mkdir(parents=True, exist_ok=True)
            (chart / "Chart.yaml").write_text("apiVersion: v2\nname: stack\nversion: 0.1.0\n")
            _write(chart / "templates" / "all.yaml", documents, escape=True)
            common = ("stack", str(chart), f"--namespace={name}", "--wait", "--timeout=10m")
            with self.measured("helm", "first"):
                self.helm("install", *common)
            with self.measured("helm", "again"):
                self.helm("upgrade", *common)

    @contextlib.contextmanager
    def _manifests(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """What Matcha would apply to a new namespace, which is there, with the passwords."""
        name = namespace()
        project = stack.Project(self.folder / name, {"KUBECONFIG": str(self.kubeconfig)})
        project.folder.mkdir(parents=True)
        (project.folder / "matcha.yaml").write_text(STACK.format(namespace=name))
        documents = list(YAML(typ="safe").load_all(project("plan", "--output", "yaml")))
        before = [d for d in documents if d["kind"] in ("Namespace", "Secret")]
        for document in map(_filled, before):
            self.kubectl("apply", "--filename=-", stdin=json.dumps(document))
        try:
            yield name, [d for d in documents if d not in before]
        finally:
            self.kubectl("delete", "namespace", name)


def namespace() -> str:
    return f"bench-{secrets.token_hex(3)}"


def _workloads(documents: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(d["kind"], d["metadata"]["name"]) for d in documents if d["kind"] in WORKLOADS]


def _filled(document: dict[str, Any]) -> dict[str, Any]:
    """With passwords in the place of what stands for them."""
    values = {key: secrets.token_hex(16) for key in document.get("stringData", ())}
    return {**document, "stringData": values} if values else document


def _write(file: Path, documents: list[dict[str, Any]], *, escape: bool = False) -> None:
    """As JSON documents in one YAML file; `escape` where Helm would take braces for its own."""
    texts = [json.dumps(d) for d in documents]
    if escape:
        texts = [t.replace("{{", "{{ `{{` }}") for t in texts]
    file.write_text("\n---\n".join(texts) + "\n")


def run(asked: Asked) -> list[Row]:
    with places.scratch() as folder:
        state, programs = folder / "state", built()
        policy = folder / "policy.json"
        policy.write_text(json.dumps(POLICY))
        extra = f"--audit-policy-file={policy} --audit-log-path={state}/audit.log --audit-log-mode=batch"
        env = places.user_env(APISERVER_EXTRA=extra)
        try:
            script("up", state, env=env, check=True)
            bench = Bench(folder, programs, state)
            asked.take_turns((bench.matcha, bench.by_kubectl, bench.by_helm))
        finally:
            script("down", state, env=env, check=False)
    return _rows({name: tuple(values) for name, values in bench.took.items()})


def script(name: str, state: Path, *, env: dict[str, str], check: bool) -> None:
    command = [str(SCRIPTS / name), str(state)]
    subprocess.run(command, env=env, check=check, timeout=3600, stdin=subprocess.DEVNULL)


def built() -> Path:
    command = [str(SCRIPTS / "build"), "helm"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=3600)
    return Path(done.stdout.strip())


def _rows(took: dict[str, tuple[float, ...]]) -> list[Row]:
    rows = []
    for other in ("kubectl apply", "helm install --wait"):
        side = other.split()[0]
        for what, said in (("first", "first `provision`"), ("again", "unchanged `provision`")):
            for unit, end in (("s", ""), ("calls", " calls")):
                ours, bare = took[f"matcha {what}{end}"], took[f"{side} {what}{end}"]
                rows.append(Row("kubernetes", f"{said}, against `{other}`", unit, ours, bare))
    return rows + [Row("kubernetes", what, "s", took[what], budget=SHORT) for what in COMMANDS]
