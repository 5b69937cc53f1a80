"""Makes `tests/` importable: helpers of several tests stand in `support`."""

import signal
from types import FrameType

import pytest

from support.sweep import is_whole, not_sampled
from support.turns import not_in_turn


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kubeconfig",
        metavar="FILE",
        # pytest looks for its settings beside a first FILE that stands apart, before any plugin is asked
        help="(as --kubeconfig=FILE, where no path of tests is given) the cluster for the tests that need "
        "one, by its current context; otherwise one is made here",
    )


def pytest_configure() -> None:
    """A run that is ended from outside ends as by Ctrl-C: what it started is cleaned up. One in the
    background hears Ctrl-C as any other, and so does what the tests start.
    """
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of sweeps a sample, unless all or one by its name is asked for; of turns the one that is asked for.
    With --kubeconfig, of the tests on real stacks only those that run on that cluster.
    """
    other = not_in_turn(items)
    if not is_whole(config) and not any("[" in argument for argument in config.args):
        other += not_sampled(items)
    if config.getoption("--kubeconfig"):
        real = [i for i in items if i.get_closest_marker("e2e")]
        other += [i for i in real if "kubeconfig" not in getattr(i, "fixturenames", ())]
    if other:
        config.hook.pytest_deselected(items=other)
        items[:] = [i for i in items if i not in other]
