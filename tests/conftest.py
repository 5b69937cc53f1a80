"""Makes `tests/` importable: helpers of several tests stand in `support`."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kubeconfig",
        help="the cluster for the tests that need one, by its current context; otherwise one is made here",
    )
