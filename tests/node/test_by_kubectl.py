"""The manifests that `matcha plan` prints are the stack: kubectl alone runs it from them, as
docs/kubernetes.md says.
"""

from __future__ import annotations

import secrets

import pytest

from support.cluster import ClusterMatcha

pytestmark = pytest.mark.turn(1)

# Run in the server's pod: a run goes into the database, a file of it into the object store.
LOG_RUN = """
import json, urllib.request
def ask(method, path, content=None):
    url = f"http://mlflow:5001/api/2.0/{path}"
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"}, method=method)
    return urllib.request.urlopen(request, timeout=60).read()
asked = json.dumps({"experiment_id": "0", "run_name": "by hand"}).encode()
run = json.loads(ask("POST", "mlflow/runs/create", asked))["run"]["info"]
note = "mlflow-artifacts/artifacts/" + run["artifact_uri"].partition(":/")[2].strip("/") + "/note.txt"
ask("PUT", note, b"kept")
print(run["run_name"], ask("GET", note).decode())
"""


def test_kubectl_runs_the_stack_from_the_plans_manifests(tracker: ClusterMatcha) -> None:
    text, *rest = tracker("plan", "--output", "yaml").stdout.split("<generated>")
    assert rest
    manifests = text + "".join(secrets.token_hex(16) + part for part in rest)
    tracker.kubectl("apply", "--server-side", "--filename=-", stdin=manifests)
    tracker.kubectl("rollout", "status", "deployment/mlflow", "--timeout=150s")
    ran = tracker.kubectl("exec", "--stdin", "deployment/mlflow", "--", "python", "-", stdin=LOG_RUN)
    assert ran.split("\n")[0] == "by hand kept"
    [space] = tracker.objects("namespace", f"--field-selector=metadata.name={tracker.namespace}")
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    jobs = tracker.objects("jobs")
    assert jobs and all(job["status"].get("succeeded") == 1 for job in jobs)
    dump = tracker.objects("cronjobs")
    assert [job["spec"]["suspend"] for job in dump] == [False]
