"""An application in a namespace of its own that asks a stack's model on and on, and checks every answer.

It asks through the Service, from inside of the cluster, as applications do: half of its threads keep their
connection, the other half make one for each request. What it counts stands in its log: a line of JSON a
second.
"""

from __future__ import annotations

import contextlib
import json
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from support.cluster import ClusterMatcha
from support.matcha import until

IMAGE = "python:3.11-slim-bookworm"
SLOW = 10.0  # seconds after which an answer does not count

# Of the model: y = factor * (a - b), where the factor tells which version answers.
ASKING = '''
import http.client, json, os, random, select, sys, threading, time

HOST, PORT, NAME, THREADS, PAUSE, SLOW = [kind(arg) for kind, arg in zip(
    (str, int, str, int, float, float), sys.argv[1:], strict=True
)]
STOP = "/tmp/stop"
lock, answered, failed, wrong, slowest = threading.Lock(), {}, [], [], [0.0]

def fresh():
    return http.client.HTTPConnection(HOST, PORT, timeout=SLOW)

def is_dropped(link):
    """As every pool of connections looks before it uses one again."""
    return link.sock is None or bool(select.select([link.sock], [], [], 0)[0])

def ask(link, a, b):
    column = lambda name, value: {"name": name, "shape": [1, 1], "datatype": "FP64", "data": [value]}
    body = json.dumps({"inputs": [column("a", a), column("b", b)]})
    link.request("POST", f"/v2/models/{NAME}/infer", body, {"Content-Type": "application/json"})
    answer = link.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise ValueError(f"{answer.status} {content[:200]!r}")
    closing = answer.will_close
    return json.loads(content)["outputs"][0]["data"][0], closing

def work(number):
    keeps, link = number % 2 == 0, None
    while not os.path.exists(STOP):
        a, b = random.randint(10, 10**6), random.randint(-10**6, -10)
        began, kept = time.time(), False
        try:
            kept = link is not None and not is_dropped(link)
            if not kept:
                link = fresh()
            value, closing = ask(link, a, b)
            factor = value / (a - b)
            with lock:
                slowest[0] = max(slowest[0], time.time() - began)
                if abs(factor - round(factor)) > 1e-6:
                    wrong.append([began, a, b, value])
                key = str(round(factor))
                answered[key] = answered.get(key, 0) + 1
        except Exception as error:
            closing = True
            with lock:
                failed.append([began, time.time(), f"{type(error).__name__}: {error}", kept])
        if link and (closing or not keeps):
            link.close()
            link = None
        time.sleep(PAUSE)

threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(THREADS)]
for thread in threads:
    thread.start()
while True:
    over = not any(thread.is_alive() for thread in threads)
    with lock:
        said = {"answered": answered, "failed": failed, "wrong": wrong, "slowest": slowest[0], "over": over}
        print(json.dumps(said), flush=True)
    if over:
        break
    time.sleep(1)
'''

POD = """
apiVersion: v1
kind: Namespace
metadata: {{name: {space}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: asking, namespace: {space}}}
data:
  asking.py: |
{script}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {space}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  containers:
    - name: asking
      image: {image}
      command: [python, /code/asking.py, {host}, "8080", {model}, "{threads}", "{pause}", "{slow}"]
      resources: {{requests: {{cpu: 20m, memory: 32Mi}}}}
      volumeMounts: [{{name: code, mountPath: /code}}]
  volumes: [{{name: code, configMap: {{name: asking}}}}]
"""


class Failure(NamedTuple):
    """Times in Unix seconds of this machine's clock, where the node is one with it. `kept`: on a connection
    that had answered before.
    """

    began: float
    ended: float
    why: str
    kept: bool

    def is_of(self, kill: float, seconds: float) -> bool:
        """Whether it was under way when a replica was killed, or came before the cluster had noticed."""
        return kill <= self.ended and self.began <= kill + seconds


class Told(NamedTuple):
    """`answered`: by the factor of the model that did."""

    answered: Counter[int]
    failed: list[Failure]
    wrong: list[list[float]]
    slowest: float
    over: bool

    @property
    def sum(self) -> int:
        return sum(self.answered.values())


class Steady:
    """`name`: of its pod; several may ask at once."""

    def __init__(self, stack: ClusterMatcha, model: str, name: str = "steady") -> None:
        self.stack = stack
        self.model = model
        self.name = name
        self.space = application_of(stack)

    def start(self, threads: int = 4, pause: float = 0.1) -> None:
        host = f"mlserver.{self.stack.namespace}.svc"
        script = textwrap.indent(ASKING.strip("\n"), "    ")
        pod = POD.format(
            space=self.space,
            name=self.name,
            script=script,
            image=IMAGE,
            host=host,
            model=self.model,
            threads=threads,
            pause=pause,
            slow=SLOW,
        )
        self._kubectl("apply", "--filename=-", stdin=pod)
        until(lambda: self._log(1) and self.told().sum > 0, 120, every=1)

    def told(self) -> Told:
        found = json.loads(self._log(1))
        return Told(
            Counter({int(k): n for k, n in found["answered"].items()}),
            [Failure(*each) for each in found["failed"]],
            found["wrong"],
            found["slowest"],
            found["over"],
        )

    def stop(self) -> Told:
        """What it counted in all, once no request is under way."""
        self._kubectl("exec", self.name, "--", "touch", "/tmp/stop")
        return until(lambda: self.told() if self.told().over else None, SLOW + 30, every=1)  # type: ignore[no-any-return]

    def remove(self) -> None:
        self._kubectl("delete", "pod", self.name, "--ignore-not-found", "--grace-period=1", code=None)

    def _log(self, lines: int) -> str:
        said = self._kubectl("logs", self.name, f"--tail={lines}", code=None).strip()
        return said if said.startswith("{") else ""

    def _kubectl(self, *args: str, code: int | None = 0, stdin: str = "") -> str:
        return self.stack.kubectl(f"--namespace={self.space}", *args, code=code, stdin=stdin)


def application_of(stack: ClusterMatcha) -> str:
    """The namespace, which `allow-from` has to name."""
    return f"{stack.namespace}-shop"


@contextlib.contextmanager
def steady(
    stack: ClusterMatcha, model: str, name: str = "steady", *, threads: int = 4, pause: float = 0.1
) -> Iterator[Steady]:
    made = Steady(stack, model, name)
    try:
        made.start(threads, pause)
        yield made
    finally:
        made.remove()


def settled(asking: Steady, seconds: float) -> None:
    """It goes on for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(1.0, max(end - time.monotonic(), 0)))
        assert not asking.told().over
