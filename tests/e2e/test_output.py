"""What the commands of models and jobs print, and their exit codes; `tests/cli` has the others."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from support.credit import ROWS
from support.matcha import Matcha

DEPLOYED = """\
exact serves models:/credit/1
BASE/v2/models/exact/infer

# Python
import json, urllib.request

body = {
    'parameters': {'content_type': 'pd'},
    'inputs': [
        {'name': 'income', 'shape': [1, 1], 'datatype': 'FP64', 'data': [1.0]},
        {'name': 'age', 'shape': [1, 1], 'datatype': 'INT64', 'data': [1]},
    ],
}
request = urllib.request.Request("BASE/v2/models/exact/infer", json.dumps(body).encode(),
                                 {"Content-Type": "application/json"})
print(json.load(urllib.request.urlopen(request))["outputs"][0]["data"])

# shell
curl -s BASE/v2/models/exact/infer -H 'Content-Type: application/json' -d '{"parameters": \
{"content_type": "pd"}, "inputs": [{"name": "income", "shape": [1, 1], "datatype": "FP64", "data": [1.0]}, \
{"name": "age", "shape": [1, 1], "datatype": "INT64", "data": [1]}]}'

Next: matcha predict exact --input FILE
"""
DEPLOYING = """\
[T] Deployment: resolving models:/credit/1
[T] Deployment: looking for its training data
[T] Loading a model runs its code: deploy what you trust.
[T] Deployment: serving models:/credit/1
[T] Models: loading
[T] Models: loaded in T
[T] Deployment: exact serves models:/credit/1
"""
TOO_FEW = """\
exact version 1: too few rows
2 rows, WHEN to WHEN UTC
compared with the training data

Version 1 has no verdict yet: 2 rows so far, too few (needs 100).
"""
LACKING = """\
Error: Row 1: age missing.
  Its inputs: income, age.
Next: Give every row income, age.
"""
DRIFTED = """\
exact version 1: drift in 1 of 2 columns
202 rows, WHEN to WHEN UTC
compared with the training data

COLUMN   SCORE                             THRESHOLD         METHOD
income       N  ████████████│████████████          N  drift  wasserstein
age          N  BAR         │                      N         wasserstein
"""
# What is about the machine that the tests run on comes first, and may be ill; then come these.
WELL = """\
✓ record            It can be read.
✓ lock              Nobody is changing the stack.
✓ environments      N installed and whole.
✓ supervisor        It is running.
✓ services          N running and well.
✓ ports             None is taken by another program.
✓ permissions       Only you can open the stack's files.
✓ secrets           They can be read.
✓ runtime folder    FOLDER is yours alone.
✓ lost stacks       None.
✓ models            N deployed and answering.
✓ client libraries  Nothing installed beside Matcha differs from the stack.
"""
Said = tuple[int, str, str]


class Exact:
    """A command's exit code, stdout and stderr; addresses, times and dates, which vary, under other names."""

    def __init__(self, stack: Matcha) -> None:
        self.stack = stack
        self.base = stack.url("model-deployer", "base-url")

    def __call__(self, *words: str, stdin: str = "") -> Said:
        utf8 = {"PYTHONIOENCODING": "utf-8"}
        done = self.stack(*words, code=None, stdin=stdin, env=utf8)
        return done.returncode, self._plain(done.stdout), self._plain(done.stderr)

    def _plain(self, text: str) -> str:
        text = text.replace(self.base, "BASE")
        text = re.sub(r"\[ *[\dms. ]+s\]", "[T]", text)
        text = re.sub(r"\bin (?:\d+m )?\d+(?:\.\d+)?s\b", "in T", text)
        text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "WHEN", text)
        # lines that only say for how long something has been going on already
        return re.sub(r"^\[T\] .*\(\d+ s\)\n", "", text, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def matcha(stack: Matcha, credit: str) -> Iterator[Exact]:
    made = Exact(stack)
    yield made
    stack("undeploy", "exact", code=None)


# The tests stand in the order of a deployment's life.


def test_deploy(matcha: Exact) -> None:
    assert matcha("deploy", "models:/credit/1", "--name", "exact") == (0, DEPLOYED, DEPLOYING)


def test_models(matcha: Exact) -> None:
    """What is called `credit`; other tests register models of their own, and deploy either version of it."""
    code, out, err = matcha("models")
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()
    assert re.fullmatch(r"MODEL +VERSIONS +ALIASES +DEPLOYED AS", head)
    [credit] = [row for row in rows if row.startswith("credit ")]
    cells = [credit[head.index(name) :] for name in ("VERSIONS", "ALIASES", "DEPLOYED AS")]
    assert cells[0].startswith("2, 1 ")
    assert cells[1].startswith("champion = 1 ")
    assert re.fullmatch(r"credit \(version [12]\), exact \(version 1\)", cells[2])


def test_predict(matcha: Exact) -> None:
    assert matcha("predict", "exact", "-", stdin=json.dumps(ROWS)) == (0, "130.0\n140.0\n", "")
    refused = matcha("predict", "exact", "--json", '[{"income": 1.0}]')
    assert refused == (2, "", LACKING)


def test_monitor(matcha: Exact) -> None:
    assert matcha("monitor", "exact", "--check") == (0, TOO_FEW, "")
    rows = [{"income": 500.0, "age": 18 + number % 62} for number in range(200)]
    matcha("predict", "exact", "-", stdin=json.dumps(rows))
    code, out, err = matcha("monitor", "exact", "--check")
    assert (code, err) == (1, "")
    shown = re.sub(r" *\b\d+\.\d{3}\b", lambda number: "N".rjust(len(number[0])), out)
    assert re.sub(r"^(age .*?)█+ *│", r"\1BAR         │", shown, flags=re.MULTILINE) == DRIFTED
    assert matcha("monitor", "exact") == (0, f"{out}\nNo rows were captured since.\n", "")


def test_undeploy(matcha: Exact) -> None:
    gone = "exact is not served any more; the model stays in the registry.\n"
    converging = "[T] Models: loading\n[T] Models: loaded in T\n"
    assert matcha("undeploy", "exact") == (0, gone, converging)
    assert matcha("undeploy", "exact")[:2] == (1, "")


def test_run(matcha: Exact) -> None:
    """Once the job's environment is there, nothing but what the job says."""
    matcha("run", "--", "true")
    script = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    assert matcha("run", "--", "python", "-c", script) == (3, "out\n", "err\n")


def test_doctor_and_what_it_mends(matcha: Exact) -> None:
    loose = matcha.stack.project / ".matcha" / "state.json"
    assert findings(matcha("doctor")) == WELL
    loose.chmod(0o644)
    found = findings(matcha("doctor"), more=1)
    line = "✓ permissions       Only you can open the stack's files.\n"
    assert line in WELL
    ill = f"✗ permissions       Other users can open {loose}.\n                    Fix: matcha doctor --fix\n"
    assert found == WELL.replace(line, ill)
    assert findings(matcha("doctor", "--fix"), mended=1) == WELL
    assert loose.stat().st_mode & 0o077 == 0
    assert findings(matcha("doctor")) == WELL


def findings(said: Said, *, more: int = 0, mended: int = 0) -> str:
    """Those of the stack; last line and exit code go by the machine's as well, of which there may be other
    ones at any moment: an index that answers late.
    """
    code, out, err = said
    assert err == ""
    body, _, last = out.rpartition("\n\n")
    lines = f"{body}\n".splitlines(keepends=True)
    start = next(number for number, line in enumerate(lines) if line[2:].startswith("record "))
    wrong = sum(line.startswith("✗") for line in lines[:start])
    problems = wrong + more
    found = f"{problems} problem{'' if problems == 1 else 's'} found." if problems else "All is well."
    told = f"{found}{f' {mended} problem mended.' if mended else ''}\n"
    assert last == told + ("Next: matcha doctor --fix\n" if more else "")
    assert code == (1 if problems else 0)
    text = re.sub(r"(?<=  )\d+(?= (?:installed|running|deployed))", "N", "".join(lines[start:]))
    return re.sub(r"(?<=runtime folder    )\S.*(?= is yours)", "FOLDER", text)


# Options with an effect that only a real stack shows


def test_sensitive_columns_are_kept_with_the_deployment(stack: Matcha, credit: str) -> None:
    def settings() -> dict[str, object]:
        [found] = [
            d for m in stack.json("models") for d in m["deployments"] if d["name"] == "watched-for-bias"
        ]
        live = json.loads((stack.stack / "live" / "monitoring" / "deployments.json").read_text())
        [told] = [d for d in live if d["name"] == "watched-for-bias"]
        assert told["settings"] == found["settings"]
        return dict(found["settings"])

    name = ("--name", "watched-for-bias")
    stack("deploy", "models:/credit/1", *name, "--sensitive", "age", "--sensitive", "income")
    assert settings() == {"sensitive": ["age", "income"]}
    stack("deploy", "models:/credit/1", *name, "--sensitive", "age")
    assert settings() == {"sensitive": ["age"]}
    stack("deploy", "models:/credit/1", *name)
    assert settings() == {}
    stack("undeploy", "watched-for-bias")


class Followed:
    """`matcha logs ... --follow`, and its lines as they come."""

    def __init__(self, stack: Matcha, *words: str) -> None:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._run = stack.popen("logs", *words, **pipes)

    def until(self, pattern: str) -> str:
        """The first line that begins with this; the test's own time limit ends the wait."""
        assert self._run.stdout is not None
        for line in self._run.stdout:
            if re.match(pattern, line):
                return line
        raise AssertionError(f"it ended without {pattern}")

    def interrupted(self) -> tuple[int, str]:
        """Exit code and stderr."""
        self._run.send_signal(signal.SIGINT)
        _, err = self._run.communicate(timeout=30)
        return self._run.returncode, err

    def end(self) -> None:
        self._run.kill()
        self._run.communicate()


@pytest.mark.parametrize("words", [("mlserver", "-f"), ("--follow",)], ids=["one", "all"])
def test_logs_that_are_followed(stack: Matcha, credit: str, words: tuple[str, ...]) -> None:
    """Lines written before and after it was called, of each service asked for; they go on until Ctrl-C."""
    followed = Followed(stack, *words, "--lines", "1000")
    try:
        prefix = "" if "mlserver" in words else "mlserver     | "
        followed.until(rf"{re.escape(prefix)}.*Uvicorn running on")
        for number in ("first", "second"):
            speak(stack, "mlserver", f"the {number} line")
            assert followed.until(f".*the {number} line") == f"{prefix}the {number} line\n"
        if prefix:
            speak(stack, "zenml", "a line of another")
            assert followed.until(".*a line of another") == "zenml        | a line of another\n"
        assert followed.interrupted()[0] == 130
    finally:
        followed.end()


def speak(stack: Matcha, service: str, text: str) -> None:
    """As the service itself would: what it writes goes to the end of its log."""
    with (stack.stack / "logs" / f"{service}.log").open("a") as log:
        log.write(f"{text}\n")
