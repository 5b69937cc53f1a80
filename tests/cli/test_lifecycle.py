"""From init to destroy on the fake target: exact output and exit codes, with and without a terminal."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from ruamel.yaml import YAML

from matcha.cli.place import first_step
from matcha.registry import component_catalogue
from matcha.views.documents import SCHEMAS

MLFLOW = component_catalogue()["experiment-tracker"]["mlflow"].version
DVC = component_catalogue()["data-version-control"]["dvc"].version
STEPS = """\
  +  create  Storage             not there yet
  +  create  MLflow environment  not there yet
  +  create  MLflow              not there yet
"""


def timeless(text: str) -> str:
    """Durations and padding vary; what is said does not."""
    return re.sub(r"\[ *[\d.]+s\]", "[T]", re.sub(r"\bin \d+\.\ds", "in T", text))


def decoded(command: str, text: str) -> None:
    msgspec.json.decode(text, type=SCHEMAS[command], strict=True)


def test_init_writes_once(matcha) -> None:
    matcha.file.unlink()
    done = matcha("init")
    assert done == (0, f"Wrote {matcha.file}\nNext: matcha provision\n", "")
    again = matcha("init")
    assert (again.code, again.out) == (2, "")
    assert again.err.startswith("Error: matcha.yaml exists already.\nNext: ")


def test_init_is_about_this_folder_whatever_stands_above(matcha) -> None:
    below = matcha.folder / "inner"
    below.mkdir()
    done = matcha("init", "--target", "fake", "--output", "json", where=below)
    assert json.loads(done.out) == {"path": str(below / "matcha.yaml")}
    assert "target: fake" in (below / "matcha.yaml").read_text()


def test_plan_changes_nothing(matcha) -> None:
    done = matcha("plan")
    assert done == (0, f"Plan for stack default on fake: 3 to create\n\n{STEPS}", "")
    assert matcha("provision", "--dry-run") == done
    assert sorted(p.name for p in matcha.folder.iterdir()) == ["matcha.yaml"]


def test_plan_as_json_and_yaml(matcha) -> None:
    done = matcha("plan", "--output", "json")
    decoded("plan", done.out)
    assert [step["key"] for step in json.loads(done.out)["steps"]] == [
        "stores",
        "environment/mlflow",
        "service/mlflow",
    ]
    assert matcha("provision", "--dry-run", "--output", "json") == done
    done = matcha("plan", "--output", "yaml")
    assert done == (
        2,
        "",
        "Error: The fake target has no manifests to show as YAML.\nNext: matcha plan --output json\n",
    )


def test_the_manifests_need_no_cluster_and_tell_no_secret(matcha) -> None:
    matcha.file.write_text("target: kubernetes\ntargets:\n  kubernetes: {namespace: ml}\n")
    nowhere = {"KUBECONFIG": str(matcha.home / "kubeconfig")}
    assert matcha("plan", **nowhere).code != 0, "there is a cluster, then"
    done = matcha("plan", "--output", "yaml", **nowhere)
    assert (done.code, done.err) == (0, "")
    documents = list(YAML(typ="safe").load_all(done.out))
    kinds = [document["kind"] for document in documents]
    assert kinds[0] == "Namespace" and {"Deployment", "StatefulSet", "Service", "NetworkPolicy"} <= {*kinds}
    assert {d["metadata"].get("namespace", "ml") for d in documents} == {"ml"}
    [secret] = [document for document in documents if document["kind"] == "Secret"]
    assert set(secret["stringData"].values()) == {"<generated>"} and "data" not in secret
    assert done == matcha("plan", "--output", "yaml", **nowhere), "nothing is made up on the way"
    assert sorted(p.name for p in matcha.folder.iterdir()) == ["matcha.yaml"]


def test_provision_without_a_terminal_wants_an_answer(matcha) -> None:
    done = matcha("provision", "--target", "fake")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"Plan for stack default on fake: 3 to create\n\n{STEPS}\n"
        "Error: This has to be confirmed, and there is no terminal to ask on.\n"
        "Next: matcha provision --target fake --yes\n"
    )
    assert matcha("status").code == 1


ENDPOINTS = """
  experiment-tracker  MLflow  http://127.0.0.1:9000

Next: matcha env
"""


def test_provision_and_again(matcha) -> None:
    done = matcha("provision", "--yes")
    assert done.code == 0
    assert timeless(done.out) == f"Ready in T.\n{ENDPOINTS}"
    assert sorted(timeless(done.err).splitlines()) == sorted(
        [
            "Stack default on fake: 3 to create",
            "[T] Storage: making",
            "[T] Storage: made in T",
            "[T] MLflow: installing",
            "[T] MLflow: installed in T",
            "[T] MLflow: starting",
            "[T] MLflow: waiting for /api/2.0/mlflow/experiments/search?max_results=1",
            "[T] MLflow: started in T",
        ]
    )
    again = matcha("provision")
    assert again == (0, f"Nothing to do: stack default on fake is as it should be.\n{ENDPOINTS}", "")


def test_provision_without_a_file_writes_it_and_says_so(matcha) -> None:
    matcha.file.unlink()
    done = matcha("provision", "--yes", "--target", "fake")
    assert "] Wrote matcha.yaml with the defaults.\n" in done.err
    assert "] Recorded target: fake in matcha.yaml.\n" in done.err
    assert "target: fake" in matcha.file.read_text()


def test_provision_as_json_keeps_stdout_for_the_document(matcha) -> None:
    done = matcha("provision", "--yes", "--output", "json")
    assert done.code == 0
    decoded("provision", done.out)
    document = json.loads(done.out)
    assert document["changed"]
    assert document["outputs"]["experiment-tracker"]["tracking-url"] == "http://127.0.0.1:9000"
    assert "] MLflow: started" in done.err


def test_a_failing_step_ends_with_its_error(matcha) -> None:
    matcha.write("targets:\n  fake: {fail: [service/mlflow]}\n")
    done = matcha("provision", "--yes")
    assert (done.code, done.out) == (1, "")
    assert timeless(done.err).endswith(
        "[T] MLflow: failed: service/mlflow failed, as it was told to.\n"
        "Error: service/mlflow failed, as it was told to.\n"
        "  last log line\n"
        "Next: matcha logs\n"
    )
    status = matcha("status")
    assert status.code == 1
    assert status.out.endswith("\nNext: matcha provision\n")


def test_provision_asks_on_a_terminal(matcha) -> None:
    refused = matcha.typed("provision", answers=["n\n"])
    assert refused.code == 0
    assert f"{STEPS}\nGo ahead? [Y/n] n\nNothing was changed.\n" in refused.out
    assert matcha("status").code == 1
    agreed = matcha.typed("provision", answers=["\n"])
    assert agreed.code == 0
    assert timeless(agreed.out).endswith(f"Ready in T.\n{ENDPOINTS}")


def test_ctrl_d_is_no(matcha) -> None:
    done = matcha.typed("provision", answers=["\x04"])
    assert (done.code, done.out.splitlines()[-1]) == (0, "Nothing was changed.")


def test_ctrl_c_is_130_and_says_what_goes_on(matcha) -> None:
    done = matcha.typed("provision", answers=["\x03"])
    assert done.code == 130
    assert done.out.endswith("Interrupted. What was done stays; matcha provision goes on from there.\n")
    assert "Traceback" not in done.out


def test_a_terminal_gets_the_live_table(matcha) -> None:
    done = matcha.typed("provision", "--yes", answers=[], TERM="xterm-256color", COLUMNS="80", LINES="24")
    assert done.code == 0
    final = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", done.out.rpartition("Provisioning")[2])
    assert re.search(r"✓ Storage +make +\d+\.\ds\n", final)
    assert re.search(r"✓ MLflow +start +\d+\.\ds\n", final)
    assert "3 of 3 steps" in final
    assert "\x1b[?25h" in done.out  # the cursor is shown again


def test_no_color_is_respected(matcha) -> None:
    terminal = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    assert "\x1b[32m" in matcha.typed("plan", answers=[], **terminal).out
    assert "\x1b" not in matcha.typed("plan", answers=[], NO_COLOR="1", **terminal).out


def test_status(stack) -> None:
    done = stack("status")
    assert done == (
        0,
        "Stack default on fake: healthy\n"
        "\n"
        "COMPONENT  STATE    ADDRESS                VERSION  MEMORY  UPTIME  RESTARTS\n"
        f"DVC        ready                           {DVC}\n"
        f"MLflow     running  http://127.0.0.1:9000  {MLFLOW}\n",
        "",
    )
    document = stack("status", "--output", "json")
    decoded("status", document.out)
    assert json.loads(document.out)["healthy"] is True


def test_stop_and_start(stack) -> None:
    assert stack("stop") == (0, "Stopped; all data is kept.\nNext: matcha start\n", "")
    stopped = stack("status")
    assert stopped.code == 1
    assert stopped.out.startswith("Stack default on fake: stopped\n")
    assert stopped.out.endswith("\nNext: matcha start\n")
    started = stack("start")
    assert started.code == 0
    assert timeless(started.out) == f"Ready in T.\n{ENDPOINTS}"
    assert json.loads(stack("stop", "--output", "json").out) == {"done": "stop", "name": ""}


def test_a_broken_file_is_in_the_way_of_what_needs_it_alone(stack) -> None:
    with stack.file.open("a") as file:
        file.write("nonsense: 1\n")
    line = len(stack.file.read_text().splitlines())
    wrong = f'matcha.yaml:{line}: unknown key "nonsense"'
    note = f"{wrong}. Going by what is recorded of the stack."
    refused = stack("provision", "--yes")
    assert (refused.code, refused.err.splitlines()[0]) == (2, f"Error: {wrong}")
    status = stack("status")
    assert status.code == 0
    assert status.out.splitlines()[:2] == ["Stack default on fake: healthy", note]
    assert json.loads(stack("status", "--output", "json").out)["notes"] == [note]
    stopped = stack("stop")
    assert (stopped.code, stopped.out) == (0, "Stopped; all data is kept.\nNext: matcha start\n")
    assert stopped.err.endswith(f"] {note}\n")
    assert stack("force-unlock", "--yes") == (0, "The stack was not locked.\n", f"{note}\n")
    gone = stack("destroy", "--yes", "--delete-data")
    assert (gone.code, gone.out.splitlines()[-1]) == (
        0,
        "Removed, and checked: nothing of the stack is left.",
    )
    assert stack("destroy", "--yes").code == 2


def test_logs(stack) -> None:
    said = "mlflow: nothing to say, it is a fake"
    assert stack("logs") == (0, f"mlflow       | {said}\n", "")
    assert stack("logs", "mlflow") == stack("logs", "experiment-tracker") == (0, f"{said}\n", "")
    assert json.loads(stack("logs", "mlflow", "--output", "json").out) == {"service": "mlflow", "line": said}
    assert stack("logs", "mlfow").err == 'Error: Unknown component "mlfow".\nDid you mean "mlflow"?\n'


def test_open_prints_the_address_without_a_display(stack) -> None:
    assert stack("open") == stack("open", "mlflow", "--print") == (0, "http://127.0.0.1:9000\n", "")
    assert json.loads(stack("open", "--output", "json").out) == {"url": "http://127.0.0.1:9000"}
    assert stack("open", "dvc").code == 2


@pytest.fixture
def browser(stack, tmp_path: Path) -> Path:
    """A program that writes down what it is to open; the file that it writes to."""
    opened = tmp_path / "opened"
    program = tmp_path / "browser"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >>'{opened}'\n")
    program.chmod(0o755)
    return opened


def test_open_starts_the_browser_of_who_sits_at_a_terminal(stack, browser: Path) -> None:
    program = str(browser.with_name("browser"))
    done = stack.typed("open", "mlflow", answers=[], BROWSER=program)
    assert (done.code, done.out) == (0, "http://127.0.0.1:9000\n")
    assert browser.read_text() == "http://127.0.0.1:9000\n"


@pytest.mark.parametrize("words", [("--print",), ("--output", "json")])
def test_open_starts_none_where_only_the_address_is_asked_for(stack, browser: Path, words) -> None:
    done = stack.typed("open", *words, answers=[], BROWSER=str(browser.with_name("browser")))
    assert done.code == 0
    assert "http://127.0.0.1:9000" in done.out
    assert not browser.exists()


def test_open_starts_none_without_a_terminal_or_a_display(stack, browser: Path) -> None:
    assert stack("open", BROWSER=str(browser.with_name("browser"))).out == "http://127.0.0.1:9000\n"
    assert stack.typed("open", answers=[]).out == "http://127.0.0.1:9000\n"
    assert not browser.exists()


def test_open_of_a_stack_without_pages(matcha) -> None:
    matcha.write(kept=["data-version-control"])
    assert matcha("provision", "--yes").code == 0
    no_page = "Error: No component of this stack has a page to open.\nNext: matcha get\n"
    assert matcha("open") == (2, "", no_page)
    assert matcha("open", "dvc") == (2, "", no_page)


@pytest.fixture
def locked(stack):
    """A stack that another process is changing at this moment."""
    hold = (
        "import sys, time; from pathlib import Path; from matcha.registry import target_class; "
        "target = target_class('fake')(Path(sys.argv[1])); "
        "target.store().acquire('provision', wait=5, emit=print); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(stack.folder)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    yield stack
    holder.kill()
    holder.wait()
    holder.stdout.close()


def test_force_unlock(locked) -> None:
    assert "Being changed by " in locked("status").out
    refused = locked("force-unlock")
    assert (refused.code, refused.err.splitlines()[-1]) == (2, "Next: matcha force-unlock --yes")
    broken = locked("force-unlock", "--yes")
    assert broken.code == 0
    assert re.fullmatch(r"The lock of .+ \(provision\) is broken\.\n", broken.out)
    assert locked("force-unlock", "--yes") == (0, "The stack was not locked.\n", "")
    document = locked("force-unlock", "--yes", "--output", "json")
    decoded("force-unlock", document.out)


def test_who_waits_says_for_whom_and_can_be_ended(locked) -> None:
    (locked.folder / "matcha.yaml").write_text("target: fake\n")  # something to do
    process = locked.begin("provision", "--yes")
    first = process.stderr.readline()
    process.terminate()
    rest = process.communicate(timeout=30)
    assert re.fullmatch(r"\[ *\d+\.\ds\] Stack: waiting for pid \d+\n", first)
    assert (process.returncode, rest) == (143, ("", ""))


PROVING = "[T] Stack: looking for what is left\n"


def test_destroy_nothing(matcha) -> None:
    done = matcha("destroy")
    assert (done.code, done.out, timeless(done.err)) == (0, "There is nothing to destroy.\n", PROVING)
    assert json.loads(matcha("destroy", "--output", "json").out)["nothing"] is True


def test_destroy_without_a_terminal(stack) -> None:
    asked = stack("destroy")
    assert (asked.code, asked.out) == (2, "")
    assert asked.err.startswith(f"This removes the stack of {stack.folder}:\n  - service/mlflow\n")
    assert asked.err.splitlines()[-1] == "Next: matcha destroy --yes --delete-data"
    kept = stack("destroy", "--yes")
    assert (kept.code, kept.out) == (1, "")
    assert kept.err.startswith("Error: The stack holds the only copy of ")
    assert kept.err.endswith("Next: matcha destroy --yes --delete-data\n")
    gone = stack("destroy", "--yes", "--delete-data")
    assert (gone.code, timeless(gone.err)) == (0, PROVING)
    assert gone.out.startswith("  - service/mlflow\n")
    assert gone.out.endswith("Removed, and checked: nothing of the stack is left.\n")
    assert stack("destroy").out == "There is nothing to destroy.\n"


def test_destroy_leaves_what_dvc_keeps_in_the_project(stack) -> None:
    files = [
        ".dvc/config",
        ".dvc/cache/files/md5/ab/cdef",
        ".dvcignore",
        "data.csv.dvc",
        "models/big.bin.dvc",
    ]
    for name in files:
        file = stack.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{name}: what DVC wrote\n")
    assert stack("destroy", "--yes", "--delete-data").code == 0
    assert [(stack.folder / name).read_text() for name in files] == [
        f"{name}: what DVC wrote\n" for name in files
    ]


@pytest.mark.parametrize(
    ("answers", "gone"),
    [
        (["n\n"], False),
        (["\n"], False),
        (["y\n", "yes\n"], False),
        (["y\n", "delete\n"], True),
    ],
)
def test_destroy_asks_twice_where_data_is_lost(stack, answers: list[str], gone: bool) -> None:
    done = stack.typed("destroy", answers=answers)
    assert done.code == 0
    last = "Removed, and checked: nothing of the stack is left." if gone else "Nothing was removed."
    assert done.out.splitlines()[-1] == last
    assert ('for good. Type "delete" to go on: ' in done.out) == (answers[0] == "y\n")
    assert (stack("destroy").out == "There is nothing to destroy.\n") == gone


def test_an_empty_folder_stays_empty(tmp_path: Path, matcha) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for command in ("status", "plan", "get", "logs", "models", "env", "doctor", "destroy", "stop", "start"):
        matcha(command, where=empty)
        assert list(empty.iterdir()) == [], command


def test_the_next_step_is_one_that_works(matcha) -> None:
    """Not every target runs the code that the project has."""
    (matcha.folder / "train.py").touch()
    for command in (("provision", "--yes"), ("start",)):
        assert matcha(*command).out.endswith("\nNext: matcha env\n")
    assert matcha("run", "--", "python", "train.py").code == 2
    assert matcha("env").code == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("run.py", "matcha run -- python run.py"),
        ("train.py", "matcha run -- python train.py"),
        ("other.py", "matcha example get recommendation"),
    ],
)
def test_the_next_step_is_the_projects_own_code_where_there_is_some(
    tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / name).touch()
    assert first_step(tmp_path, "local") == said


def test_example_copies_a_folder(matcha) -> None:
    done = matcha("example", "get", "recommendation", "movies")
    folder = matcha.folder / "movies"
    assert done == (0, f"Wrote {folder}\nNext: cd movies; less README.md\n", "")
    assert (folder / "README.md").is_file()
    again = matcha("example", "get", "recommendation", "movies")
    assert (again.code, again.err.splitlines()[0]) == (2, "Error: movies exists already.")
    shutil.rmtree(folder)
    listed = matcha("example", "list", "--output", "json")
    decoded("example list", listed.out)
    assert "recommendation" in [each["name"] for each in json.loads(listed.out)]
    unknown = matcha("example", "get", "recomendation")
    assert unknown.err.endswith('Did you mean "recommendation"?\n')


def test_light_commands_do_not_import_the_heavy(stack) -> None:
    """What `status` loads is the budget of every command."""
    probe = (
        "import sys; sys.argv[1:] = ['status'];\n"
        "from matcha.cli.main import main\n"
        "code = main(['status'])\n"
        "heavy = [m for m in ('rich', 'httpx', 'psutil', 'supervisor', 'pandas') if m in sys.modules]\n"
        "sys.exit(' '.join(heavy) or 0)\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=stack.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"after {time.monotonic() - began:.1f} s"
