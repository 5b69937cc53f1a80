"""What commands show: plans, conditions, outputs, models, drift, findings, errors. All pure."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from matcha.access import Output
from matcha.api.types import (
    ComponentStatus,
    DeployResult,
    Destroyed,
    Destruction,
    Finding,
    FoundationStatus,
    ModelStatus,
    Prediction,
    Provisioned,
    Report,
    ServedModel,
    StackStatus,
)
from matcha.component import Deployment
from matcha.errors import BadInput, ComponentFailed, NotProvisioned
from matcha.planning import Plan, Step
from matcha.views import monitoring, outputs, plans, serving, statuses, upkeep
from matcha.views.documents import ExampleDocument
from matcha.views.errors import error_lines
from matcha.views.text import Line, Paper, cells, render

TITLES = {"mlflow": "MLflow", "zenml": "ZenML", "mlserver": "MLServer", "experiment-tracker": "MLflow"}


def text(lines: list[Line], **paper: Any) -> str:
    return render(lines, Paper(**paper))


# -- plans ---------------------------------------------------------------------------------------------


def test_a_plan_has_a_row_a_step_with_its_reason() -> None:
    plan = Plan(
        stack="default",
        target="local",
        steps=(
            Step(key="environment/mlflow", action="create", reason="not there yet"),
            Step(key="service/zenml", action="update", reason="changed"),
            Step(key="service/mlserver", action="start", reason="stopped"),
            Step(key="service/mlflow", action="repair", reason="does not answer"),
            Step(key="service/chroma", action="remove", reason="no longer wanted"),
        ),
        unchanged=("secrets", "stores"),
        notes=("Download: about 412 MB.",),
    )
    assert text(plans.plan_lines(plan, TITLES, Paper())) == (
        "Plan for stack default on local: 1 to create, 1 to update, 1 to start, 1 to repair, 1 to remove, "
        "2 unchanged\n"
        "\n"
        "  +  create  MLflow environment  not there yet\n"
        "  ~  update  ZenML               changed\n"
        "  >  start   MLServer            stopped\n"
        "  !  repair  MLflow              does not answer\n"
        "  -  remove  Chroma              no longer wanted\n"
        "\n"
        "Download: about 412 MB.\n"
    )
    assert text(plans.brief_lines(plan, Paper())).endswith("2 unchanged\nDownload: about 412 MB.\n")


def test_reasons_go_on_below_themselves_where_the_terminal_is_narrow() -> None:
    field = "spec.template.spec.containers[mlflow].resources.limits.memory"
    plan = Plan(
        stack="default",
        target="kubernetes",
        steps=(
            Step(
                key="service/mlflow",
                action="repair",
                reason=f"Deployment mlflow was changed by kubectl-edit: {field}",
            ),
            Step(key="service/zenml", action="update", reason="changed"),
        ),
    )
    assert text(plans.plan_lines(plan, TITLES, Paper(width=60)), width=60).splitlines()[2:] == [
        "  !  repair  MLflow  Deployment mlflow was changed by",
        "                     kubectl-edit: spec.template.spec.contai",
        "                     ners[mlflow].resources.limits.memory",
        "  ~  update  ZenML   changed",
    ]


def test_an_empty_plan_says_so() -> None:
    assert text(plans.plan_lines(Plan(stack="default", target="local"), TITLES, Paper())) == (
        "Nothing to do: stack default on local is as it should be.\n"
    )


OUTPUTS = {
    "experiment-tracker": {
        "flavor": Output("mlflow"),
        "tracking-url": Output("http://127.0.0.1:5000"),
    },
    "model-deployer": {
        "flavor": Output("mlserver"),
        "base-url": Output("http://127.0.0.1:8080"),
        "metrics-url": Output("http://127.0.0.1:8082"),
    },
    "pipeline": {
        "flavor": Output("zenml"),
        "server-password": Output("s3cret", sensitive=True),
        "server-url": Output("http://127.0.0.1:8237"),
    },
    "orchestrator": {"flavor": Output("local")},
}


FIRST = "matcha run -- python run.py"


def test_provision_ends_with_endpoints_and_the_next_command() -> None:
    done = Provisioned(plan=Plan(stack="default", target="local"), outputs=OUTPUTS, seconds=8.24)
    assert text(plans.provisioned_lines(done, TITLES, Paper(), FIRST)) == (
        "Ready in 8.2s.\n"
        "\n"
        "  experiment-tracker  MLflow    http://127.0.0.1:5000\n"
        "  model-deployer      MLServer  http://127.0.0.1:8080\n"
        "  pipeline            ZenML     http://127.0.0.1:8237\n"
        "\n"
        "Next: matcha run -- python run.py\n"
    )
    serving_some = msgspec.structs.replace(done, serves=1)
    assert text(plans.provisioned_lines(serving_some, TITLES, Paper(), FIRST)).endswith(
        "Next: matcha status\n"
    )


def test_addresses_are_never_cut() -> None:
    narrow = text(plans.endpoint_lines(OUTPUTS, TITLES, Paper(width=40)), width=40)
    assert narrow.splitlines()[0] == "  MLflow    http://127.0.0.1:5000"


def test_nothing_done_or_declined() -> None:
    plan = Plan(stack="default", target="local")
    same = Provisioned(plan=plan, outputs={}, changed=False)
    assert text(plans.provisioned_lines(same, TITLES, Paper(), FIRST)).startswith(
        "Nothing to do: stack default"
    )
    declined = Provisioned(plan=plan, changed=False, cancelled=True)
    assert text(plans.provisioned_lines(declined, TITLES, Paper(), FIRST)) == "Nothing was changed.\n"


# -- status --------------------------------------------------------------------------------------------


def component(title: str, condition: Any = "running", **more: Any) -> ComponentStatus:
    return ComponentStatus(
        role=title.lower(),
        flavor=title.lower(),
        title=title,
        condition=condition,
        healthy=condition in ("running", "present"),
        **more,
    )


def stack(
    *components: ComponentStatus, phase: str = "ready", lock: str = "", models: tuple[ModelStatus, ...] = ()
) -> StackStatus:
    well = all(c.healthy for c in components) and all(m.healthy for m in models)
    return StackStatus(
        stack="default",
        target="local",
        phase=phase,
        healthy=well and phase == "ready",
        components=components,
        models=models,
        lock=lock,
    )


MLFLOW = component(
    "MLflow",
    address="http://127.0.0.1:5000",
    version="3.17.2",
    memory=216_000_000,
    uptime=7380,
)
MONITORING = component(
    "Monitoring",
    "failed",
    address="http://127.0.0.1:8090",
    version="0.1.0",
    restarts=12,
    detail="exited with code 1",
)
DVC = component("DVC", "present", version="3.67.1")


def test_status_of_a_healthy_stack() -> None:
    assert text(statuses.status_lines(stack(MLFLOW, DVC), Paper(width=80)), width=80) == (
        "Stack default on local: healthy\n"
        "\n"
        "COMPONENT  STATE    ADDRESS                VERSION  MEMORY  UPTIME  RESTARTS\n"
        "MLflow     running  http://127.0.0.1:5000  3.17.2   216 MB  2h 03m         0\n"
        "DVC        ready                           3.67.1\n"
    )


def test_status_says_how_many_replicas_are_ready_where_there_may_be_several() -> None:
    served = msgspec.structs.replace(MLFLOW, title="MLServer", replicas=(2, 3))
    assert text(statuses.status_lines(stack(served, DVC), Paper(width=100)), width=100) == (
        "Stack default on local: healthy\n"
        "\n"
        "COMPONENT  STATE    REPLICAS  ADDRESS                VERSION  MEMORY  UPTIME  RESTARTS\n"
        "MLServer   running       2/3  http://127.0.0.1:5000  3.17.2   216 MB  2h 03m         0\n"
        "DVC        ready                                     3.67.1\n"
    )
    narrow = text(statuses.status_lines(stack(served, DVC), Paper(width=60)), width=60)
    assert max(cells(each) for each in narrow.splitlines()) <= 60
    assert "2/3" in narrow


def test_a_service_that_has_just_begun_has_an_uptime_and_restarts_too() -> None:
    young = component("Shelf", address="http://127.0.0.1:7070", memory=9_000_000, uptime=0.0)
    row = text(statuses.status_lines(stack(young), Paper(width=80)), width=80).splitlines()[-1]
    assert row.split() == ["Shelf", "running", "http://127.0.0.1:7070", "9", "MB", "0.0s", "0"]


def test_status_says_what_is_wrong_and_what_to_type() -> None:
    ill = stack(MLFLOW, MONITORING, lock="ann@laptop (provision)")
    assert text(statuses.status_lines(ill, Paper(width=60)), width=60) == (
        "Stack default on local: 1 of 2 not healthy\n"
        "Being changed by ann@laptop (provision).\n"
        "\n"
        "COMPONENT   STATE    ADDRESS                VERSION  MEMORY\n"
        "MLflow      running  http://127.0.0.1:5000  3.17.2   216 MB\n"
        "Monitoring  failed   http://127.0.0.1:8090  0.1.0\n"
        "\n"
        "Monitoring: exited with code 1\n"
        "\n"
        "Next: matcha status, once that change is done\n"
    )
    alone = msgspec.structs.replace(ill, lock="")
    assert text(statuses.status_lines(alone, Paper())).endswith("Next: matcha provision\n")


MYSQL = FoundationStatus(name="mysql", condition="running", healthy=True, memory=400_000_000, uptime=60)
DUMP = FoundationStatus(
    name="mysql-dump",
    condition="failed",
    healthy=False,
    detail="the last dump of the databases failed",
    resolution="matcha logs mysql-dump",
)


def test_status_says_what_others_changed_of_what_is_well() -> None:
    changed = msgspec.structs.replace(MYSQL, detail="Service mysql was changed by kubectl-edit: spec.ports")
    found = msgspec.structs.replace(stack(DVC), foundations=(changed,))
    assert text(statuses.status_lines(found, Paper(width=80)), width=80) == (
        "Stack default on local: healthy\n"
        "\n"
        "COMPONENT  STATE    ADDRESS  VERSION  MEMORY  UPTIME  RESTARTS\n"
        "DVC        ready             3.67.1\n"
        "mysql      running                    400 MB  1m 00s         0\n"
        "\n"
        "mysql: Service mysql was changed by kubectl-edit: spec.ports\n"
        "\n"
        "Next: matcha provision\n"
    )


def test_what_a_provision_would_not_mend_has_a_next_command_of_its_own() -> None:
    ill = msgspec.structs.replace(stack(DVC), healthy=False, foundations=(MYSQL, DUMP))
    lines = text(statuses.status_lines(ill, Paper())).splitlines()
    assert lines[0] == "Stack default on local: 1 of 3 not healthy"
    assert lines[-1] == "Next: matcha logs mysql-dump"
    more = msgspec.structs.replace(stack(MONITORING), healthy=False, foundations=(MYSQL, DUMP))
    assert text(statuses.status_lines(more, Paper())).splitlines()[-1] == "Next: matcha provision"


def test_status_names_models_that_do_not_answer() -> None:
    movie = ModelStatus(name="movie", uri="models:/movie/1", healthy=True)
    credit = ModelStatus(name="credit", uri="gone", healthy=False, detail="there is no model at gone")
    lines = text(statuses.status_lines(stack(DVC, models=(movie, credit)), Paper())).splitlines()
    assert lines[0] == "Stack default on local: 1 model does not answer"
    assert lines[-3:] == ["Model credit: there is no model at gone", "", "Next: matcha provision"]
    assert "movie" not in "".join(lines)
    two = text(statuses.status_lines(stack(DVC, models=(credit, credit)), Paper())).splitlines()
    assert two[0] == "Stack default on local: 2 models do not answer"


def test_a_stopped_stack_is_to_be_started() -> None:
    stopped = stack(component("MLflow", "stopped"), phase="stopped")
    lines = text(statuses.status_lines(stopped, Paper())).splitlines()
    assert (lines[0], lines[-1]) == ("Stack default on local: stopped", "Next: matcha start")


def test_an_interrupted_change_is_unfinished_though_all_runs() -> None:
    lines = text(statuses.status_lines(stack(MLFLOW, phase="changing"), Paper())).splitlines()
    assert (lines[0], lines[-1]) == ("Stack default on local: unfinished", "Next: matcha provision")


@pytest.mark.parametrize("width", [60, 80])
def test_status_fits_narrow_terminals(width: int) -> None:
    shown = text(statuses.status_lines(stack(MLFLOW, MONITORING, DVC), Paper(width=width)), width=width)
    assert max(cells(each) for each in shown.splitlines()) <= width
    assert "http://127.0.0.1:8090" in shown


# -- outputs -------------------------------------------------------------------------------------------


def test_get_lists_properties_below_their_resource() -> None:
    values = {"pipeline": {"flavor": "zenml", "server-url": "http://127.0.0.1:8237"}, "cloud": {}}
    assert text(outputs.get_lines(values, Paper())) == (
        "pipeline\n  flavor      zenml\n  server-url  http://127.0.0.1:8237\n\ncloud\n"
    )


def test_env_is_quoted_for_a_shell() -> None:
    assert outputs.env_text({"A": "plain", "B": "it's $HOME", "C": ""}) == (
        "export A='plain'\nexport B='it'\"'\"'s $HOME'\nexport C=''\n"
    )


# -- serving -------------------------------------------------------------------------------------------

MOVIE = Deployment(
    name="movie", asked="models:/movie@champion", uri="models:/movie/3", model="movie", version="3"
)


def test_deploy_gives_calls_that_can_be_pasted() -> None:
    result = DeployResult(
        deployment=MOVIE,
        url="http://127.0.0.1:8080/v2/models/movie/infer",
        python="import httpx\nprint(1)\n",
        curl="curl -s \\\n  -d '{}' URL",
        notes=("Its packages differ from the serving environment's.",),
    )
    assert text(serving.deploy_lines(result, Paper(width=30))) == (
        "movie serves models:/movie/3\n"
        "http://127.0.0.1:8080/v2/models/movie/infer\n"
        "\n"
        "Its packages differ from the\n"
        "serving environment's.\n"
        "\n"
        "# Python\n"
        "import httpx\n"
        "print(1)\n"
        "\n"
        "# shell\n"
        "curl -s \\\n"
        "  -d '{}' URL\n"
        "\n"
        "Next: matcha predict movie --input FILE\n"
    )


def test_models_with_versions_aliases_and_deployments() -> None:
    models = [
        ServedModel(name="movie", versions=("1", "2", "3"), aliases={"champion": "3"}, deployments=(MOVIE,)),
        ServedModel(name="credit", versions=("1", "2", "3", "9", "10", "8")),
    ]
    assert text(serving.models_lines(models, Paper(), FIRST)) == (
        "MODEL   VERSIONS       ALIASES       DEPLOYED AS\n"
        "movie   1, 2, 3        champion = 3  movie (version 3)\n"
        "credit  10 and 5 more\n"
    )
    alone = msgspec.structs.replace(MOVIE, dedicated=True)
    found = text(serving.models_lines([ServedModel(name="movie", deployments=(alone,))], Paper(), FIRST))
    assert found.splitlines()[1].split(maxsplit=1)[1] == "movie (version 3, dedicated)"
    none = text(serving.models_lines([], Paper(), FIRST))
    assert none == "No model is registered yet.\nNext: matcha run -- python run.py\n"


def test_a_long_name_makes_only_its_own_row_long() -> None:
    long = "a_model_with_a_very_long_name" * 4
    found = [ServedModel(name=long, versions=("1",)), ServedModel(name="movie", versions=("3",))]
    head, first, second = text(serving.models_lines(found, Paper(), FIRST)).splitlines()
    assert first == f"{long}  1"
    assert head.index("VERSIONS") == second.index("3") == 42
    narrow = text(serving.models_lines(found, Paper(width=60), FIRST), width=60)
    assert max(cells(each) for each in narrow.splitlines()) <= 60


def test_predictions_one_a_line() -> None:
    found = Prediction(name="movie", version="3", predictions=[3.5, {"a": 1}, "x"])
    assert serving.prediction_text(found) == '3.5\n{"a":1}\n"x"\n'


# -- monitoring ----------------------------------------------------------------------------------------


def column(name: str, score: float | None, **more: Any) -> dict[str, Any]:
    drifted = score is None or score > 0.2
    return {
        "name": name,
        "method": "wasserstein",
        "score": score,
        "threshold": 0.2,
        "drifted": drifted,
        "reference_missing": 0.0,
        "current_missing": 0.0,
        **more,
    }


def report(*columns: dict[str, Any], status: str = "drift", **more: Any) -> Report:
    found = {
        "deployment": "credit",
        "version": "2",
        "window": {"from": "2026-11-05T10:00:00Z", "to": "2026-11-05T11:30:00Z", "rows": 1200},
        "status": status,
        "columns": list(columns),
        "drifted": [c["name"] for c in columns if c["drifted"]],
        "dataset_drift": any(c["drifted"] for c in columns),
        "prediction_drift": None,
        "dropped": 0,
        "messages": [],
        **more,
    }
    return msgspec.convert(found, Report)


def test_monitor_draws_each_score_against_its_threshold() -> None:
    found = report(
        column("income", 0.05),
        column("age", 0.31, current_missing=0.2),
        column("exact", 0.2, drifted=False),
        column("far", 9.0),
        column("gone", None),
        dropped=3,
        messages=["zip is not in the reference."],
    )
    assert text(monitoring.report_lines(found, Paper())) == (
        "credit version 2: drift in 3 of 5 columns\n"
        "1,200 rows, 2026-11-05 10:00 to 2026-11-05 11:30 UTC\n"
        "compared with the training data\n"
        "\n"
        "COLUMN  SCORE                             THRESHOLD                      METHOD\n"
        "far     9.000  ████████████│████████████      0.200  drift               wasserstein\n"
        "age     0.310  ████████████│███████           0.200  drift, 20% missing  wasserstein\n"
        "gone                                          0.200  no longer there     wasserstein\n"
        "exact   0.200  ████████████│                  0.200                      wasserstein\n"
        "income  0.050  ███         │                  0.200                      wasserstein\n"
        "\n"
        "zip is not in the reference.\n"
        "3 captured rows had to be dropped.\n"
    )


def test_a_plan_without_a_step_says_its_notes() -> None:
    idle = Plan(stack="default", target="local", notes=("movie: mine.csv changed.",))
    same = "Nothing to do: stack default on local is as it should be.\nmovie: mine.csv changed.\n"
    assert text(plans.plan_lines(idle, TITLES, Paper())) == same
    done = Provisioned(plan=idle, changed=False)
    assert text(plans.provisioned_lines(done, TITLES, Paper(), FIRST)).startswith(same)


def test_monitor_names_the_reference_that_was_given() -> None:
    given = {"source": "data/june.csv", "artifact": "matcha/references/ab.parquet"}
    found = report(column("income", 0.05), reference=given)
    assert text(monitoring.report_lines(found, Paper())).splitlines()[2] == "compared with data/june.csv"


def test_a_bar_passes_the_threshold_exactly_when_the_score_does() -> None:
    rows = text(monitoring.report_lines(report(column("over", 0.2001), column("under", 0.1999)), Paper()))
    assert [row.split("THRESHOLD")[0] for row in rows.splitlines() if "│" in row] == [
        "over    0.200  ████████████│█                 0.200  drift  wasserstein",
        "under   0.200  ████████████│                  0.200         wasserstein",
    ]


def test_an_extreme_score_is_short_and_its_bar_full() -> None:
    found = report(column("broken", 1.7e308), column("far", 123456.789), column("near", 0.1))
    assert text(monitoring.report_lines(found, Paper())).splitlines()[5:8] == [
        "broken  1.70e+308  ████████████│████████████      0.200  drift  wasserstein",
        "far      1.23e+05  ████████████│████████████      0.200  drift  wasserstein",
        "near        0.100  ██████      │                  0.200         wasserstein",
    ]


@pytest.mark.parametrize("width", [60, 80])
def test_monitor_fits_narrow_terminals(width: int) -> None:
    found = report(column("a_column_with_a_long_name_of_its_own", 0.3), column("b", 0.1))
    shown = text(monitoring.report_lines(found, Paper(width=width)), width=width)
    assert max(cells(each) for each in shown.splitlines()) <= width


@pytest.mark.parametrize(
    ("status", "headline"),
    [
        ("no-data", "credit version 2: no traffic yet"),
        ("no-reference", "credit version 2: nothing to compare with"),
        ("too-few", "credit version 2: too few rows"),
        ("ok", "credit version 2: no drift"),
    ],
)
def test_windows_without_a_comparison(status: str, headline: str) -> None:
    found = report(status=status, window={"from": None, "to": None, "rows": 0}, messages=["Why."])
    assert text(monitoring.report_lines(found, Paper())) == f"{headline}\n\nWhy.\n"
    assert not found.drifts


def test_predictions_drift_too() -> None:
    found = report(column("a", 0.1), prediction_drift=column("prediction", 0.5), dataset_drift=True)
    assert found.drifts
    assert text(monitoring.monitor_lines([found, found], Paper())).count("drift in 1 of 2 columns") == 2


# -- upkeep --------------------------------------------------------------------------------------------


def test_doctor_gives_the_mend_of_what_is_wrong() -> None:
    findings = [
        Finding(check="python", ok=True, message="3.11.7"),
        Finding(check="disk", ok=False, message="1.2 GB free, the stack needs 4 GB.", fix="Free some space."),
        Finding(check="stale lock", ok=True, message="Broken.", fixable=True, fixed=True),
        Finding(check="supervisor", ok=False, message="dead", fix="matcha start", fixable=True),
    ]
    assert text(upkeep.doctor_lines(findings, Paper(width=40)), width=40) == (
        "✓ python      3.11.7\n"
        "✗ disk        1.2 GB free, the stack\n"
        "              needs 4 GB.\n"
        "              Fix: Free some space.\n"
        "✓ stale lock  Broken.\n"
        "✗ supervisor  dead\n"
        "              Fix: matcha start\n"
        "\n"
        "2 problems found. 1 problem mended.\n"
        "Next: matcha doctor --fix\n"
    )
    assert text(upkeep.doctor_lines(findings[:1], Paper())).endswith("\nAll is well.\n")


def test_what_the_doctor_could_not_check_is_not_said_to_be_well() -> None:
    unseen = Finding(check="quotas", ok=True, checked=False, message="Quotas cannot be seen.")
    well = Finding(check="python", ok=True, message="3.11.7")
    assert text(upkeep.doctor_lines([well, unseen], Paper())) == (
        "✓ python  3.11.7\n"
        "? quotas  Quotas cannot be seen.\n"
        "\n"
        "Nothing wrong was found. 1 check could not be made.\n"
    )
    ill = Finding(check="disk", ok=False, message="full")
    said = text(upkeep.doctor_lines([ill, unseen, unseen], Paper()))
    assert said.endswith("1 problem found. 2 checks could not be made.\n")


def test_destroy_names_what_goes_and_what_is_lost() -> None:
    going = Destruction(belongings=("databases (2.0 MB): /p",), holdings=("3 runs",))
    assert text(upkeep.destruction_lines(going, "the stack of /p")) == (
        "This removes the stack of /p:\n"
        "  - databases (2.0 MB): /p\n"
        "\n"
        "It may hold the only copy of:\n"
        "  - 3 runs\n"
        "\n"
    )


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (Destroyed(nothing=True), "There is nothing to destroy.\n"),
        (
            Destroyed(nothing=True, kept=("Secret a",)),
            "There is nothing else to destroy.\n\n"
            "Kept, with all data (matcha destroy --delete-data removes it):\n  - Secret a\n",
        ),
        (Destroyed(cancelled=True), "Nothing was removed.\n"),
        (
            Destroyed(removed=("a", "b")),
            "  - a\n  - b\nRemoved, and checked: nothing of the stack is left.\n",
        ),
        (
            Destroyed(removed=("a",), unproved=("You may not list b.",)),
            "  - a\nRemoved. As far as it could be checked (see the notes), nothing of the stack is left.\n",
        ),
    ],
)
def test_destroy_says_what_came_of_it(result: Destroyed, said: str) -> None:
    assert text(upkeep.destroyed_lines(result)) == said


def test_many_things_that_go_are_counted_by_kind() -> None:
    things = [
        *(f"Deployment d{n}" for n in range(12)),
        "StatefulSet mysql",
        *(f"NetworkPolicy matcha-{n}" for n in range(4)),
        *(f"PersistentVolumeClaim {n}" for n in ("mysql", "object-store", "monitoring-captures")),
        "the folder /a b",
    ]
    assert upkeep.condensed(things) == [
        "12 Deployments",
        "StatefulSet mysql",
        "4 NetworkPolicies",
        "3 PersistentVolumeClaims: mysql, object-store, monitoring-captures",
        "the folder /a b",
    ]
    assert upkeep.condensed(things[:12]) == things[:12]
    going = Destruction(belongings=tuple(things), holdings=())
    assert "  - 12 Deployments\n" in text(upkeep.destruction_lines(going, "the stack of /p"))
    gone = Destroyed(removed=tuple(things), kept=tuple(things))
    assert text(upkeep.destroyed_lines(gone)).count("  - 12 Deployments\n") == 2


def test_examples() -> None:
    listed = upkeep.example_lines([ExampleDocument("recommendation", "A movie recommender")], Paper())
    assert text(listed) == (
        "EXAMPLE         WHAT IT SHOWS\n"
        "recommendation  A movie recommender\n"
        "\n"
        "Next: matcha example get recommendation\n"
    )


# -- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (NotProvisioned(), "Error: There is no running stack here.\nNext: matcha provision\n"),
        (
            ComponentFailed(
                "MLflow did not start.", details="line 1\nline 2", resolution="matcha logs mlflow"
            ),
            "Error: MLflow did not start.\n  line 1\n  line 2\nNext: matcha logs mlflow\n",
        ),
        (
            BadInput('Unknown target "loca".', resolution='Did you mean "local"?', docs_url="https://x.org"),
            'Error: Unknown target "loca".\nDid you mean "local"?\nMore: https://x.org\n',
        ),
        (BadInput("No.", resolution="Known: a, b."), "Error: No.\nKnown: a, b.\n"),
    ],
)
def test_errors_say_what_why_and_what_next(problem: Any, said: str) -> None:
    assert text(error_lines(problem)) == said
