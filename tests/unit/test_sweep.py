"""The command that CONTRIBUTING.md gives for the whole sweep of kills selects the whole of it."""

import re
import shlex

import pytest

from support.component_contract import COMPONENTS
from support.pages import marked
from support.sweep import ROOT, collected


@pytest.fixture(scope="module")
def sweep() -> list[str]:
    """What the command on the page selects."""
    [block] = marked(__file__)
    program, *arguments = shlex.split(block.text)
    assert program == "./test"  # which hands its arguments to pytest
    return collected(*arguments)


def test_the_sweep_is_every_boundary_both_ways_and_random_moments(sweep: list[str]) -> None:
    kills = [t for t in sweep if "test_kill.py" in t]
    boundaries = {tuple(found[0]) for t in kills if (found := re.findall(r"\[(\d+)-(\w+)-(\w+)\]", t))}
    serials = {int(serial) for serial, _, _ in boundaries}
    assert serials == set(range(1, max(serials) + 1))
    assert len(boundaries) == len(serials) * 2 * 2
    assert sum("random_moment" in t for t in kills) >= 20


def test_the_sweep_is_every_moment_of_a_deploy(sweep: list[str]) -> None:
    code = (ROOT / "tests" / "e2e" / "test_killed_deploys.py").read_text()
    moments = re.findall(r'^    "(.+)": \(', code, re.MULTILINE)
    assert len(moments) == 7
    swept = [t for t in sweep if "test_killed_deploys.py" in t]
    assert [t.partition("[")[2].removesuffix("]") for t in swept] == moments


def test_the_sweep_has_what_only_it_runs_on_a_node(sweep: list[str]) -> None:
    lives = [t for t in sweep if "tests/node/test_contract.py::test_a_component_lives" in t]
    assert len(lives) == len(COMPONENTS)
    assert sum("tests/node/test_contract.py::TestCluster" in t for t in sweep) > 20


def test_by_default_a_sample_runs() -> None:
    assert len(collected("tests/e2e/test_kill.py")) < 12
    assert len(collected("tests/e2e/test_killed_deploys.py")) == 2
    on_a_node = collected("tests/node")
    assert sum("test_contract.py" in test for test in on_a_node) == 2
    assert sum("test_a_killed_provision" in test for test in on_a_node) == 1
    assert sum("test_a_component_lives" in test for test in on_a_node) == 1
    assert sum("test_options.py" in test for test in on_a_node) == 1
    for sampled, times in (
        ("a_steady_load", 1),
        ("a_deleted_pod", 2),
        ("never_starts_again", 2),
        ("comes_back_at_once", 1),
    ):
        assert sum(sampled in test for test in on_a_node) == times


def test_every_sample_is_of_its_sweep() -> None:
    """A name in a sample that no test has would leave that test out, or the sample smaller."""
    folders = ("tests/stack", "tests/cluster")
    whole, default = collected("-m", "sweep", *folders), collected(*folders)
    sizes: dict[str, int] = {}
    for test in {test.partition("[")[0] for test in whole}:
        sizes[test.rpartition("::")[2]] = sum(found.partition("[")[0] == test for found in default)
    assert sizes == {
        "test_a_provision_lives_through_it": 5,
        "test_what_fails_for_good_is_named_and_a_rerun_finishes": 2,
        "test_what_others_added_is_taken_out_whatever_happens_on_the_way": 2,
        "test_a_kind_that_cannot_be_listed_is_not_said_to_be_gone": 2,
        "test_what_others_changed_shows_in_the_plan_and_is_repaired": 1,
        "test_a_killed_run_is_finished_by_another": 1,
        "test_a_submission_that_is_killed_leaves_nothing_for_long": 1,
        "test_a_setup_killed_at_any_request_is_finished_by_the_next": 6,
        "test_a_kill_at_any_step_loses_and_doubles_nothing": 4,
        "test_few_windows_without_drift_ring": 2,
        "test_a_pod_that_its_node_loses_is_made_anew_and_the_step_goes_on": 1,
        "test_the_run_is_stopped_and_its_jobs_ended": 1,
        "test_what_is_killed_each_time_is_told_and_loses_nothing": 1,
        "test_a_job_that_dies_without_a_word_fails_its_step_or_has_it_tried_again": 0,
        "test_one_failure_ends_all_where_the_pipeline_says_so": 0,
        "test_where_nobody_makes_windows_captures_are_kept_and_it_is_said": 0,
        "test_most_small_windows_would_ring_by_fixed_thresholds": 2,
    }


def test_turns_are_halves_of_the_whole() -> None:
    """And what each commit has to show has none."""
    folders = ("tests/cluster", "tests/node")
    whole, one, other = (set(collected(*folders, turn=turn)) for turn in ("", "3", "4"))
    assert one | other == whole
    always = one & other
    assert {test.partition("::")[0].rpartition("/")[2] for test in always} == {
        "test_lost_machines.py",
        "test_pipelines.py",
        "test_running_jobs.py",
        "test_stack.py",
        "test_stack_at_scale.py",
        "test_stack_at_work.py",
        "test_stack_exposed.py",
    }
    halves = [sum("tests/cluster" in test for test in half) for half in (one, other)]
    assert min(halves) > max(halves) * 0.7


def test_a_turn_that_is_no_number_is_refused() -> None:
    with pytest.raises(AssertionError, match="MATCHA_TURN is 'x', and has to be a whole number"):
        collected("tests/cluster", turn="x")
