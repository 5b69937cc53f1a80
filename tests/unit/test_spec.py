"""matcha.yaml: every complaint names the key, the line and what was meant."""

import datetime
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from ruamel.yaml import YAML

from matcha import registry, spec
from matcha.errors import BadInput, StackFileError

TARGETS = ("local", "fake")


def load(folder: Path, text: str | None = None, target: str | None = None) -> spec.Stack:
    if text is not None:
        (folder / spec.FILE).write_text(text)
    return spec.load(folder, registry.component_catalogue(), TARGETS, target)


def test_without_a_file_the_default_stack_is_meant(tmp_path: Path) -> None:
    stack = load(tmp_path)
    assert stack.name == "default"
    assert stack.target == "local"
    assert {"experiment-tracker", "pipeline", "model-deployer", "monitoring", "data-version-control"} <= set(
        stack.components
    )


@pytest.mark.parametrize("text", ["", "# only a comment\n", "components:\n", "models: {}\ntargets:\n"])
def test_an_empty_file_means_the_defaults(tmp_path: Path, text: str) -> None:
    assert set(load(tmp_path, text).components) == set(load(tmp_path).components)


BAD = [
    ("stak: default\n", 'matcha.yaml:1: unknown key "stak"', 'Did you mean "stack"?'),
    ("# note\n\nstack: defualt\n", 'matcha.yaml:3: unknown stack "defualt"', 'Did you mean "default"?'),
    ("target: locl\n", 'matcha.yaml:1: unknown target "locl"', 'Did you mean "local"?'),
    (
        "stack: default\ncomponents:\n  model-deployr: mlserver\n",
        'matcha.yaml:3: unknown key "model-deployr"',
        'Did you mean "model-deployer"?',
    ),
    (
        "components:\n  pipeline: null\n  experiment-tracker: mlfow\n",
        'matcha.yaml:3: unknown flavor "mlfow" for experiment-tracker',
        'Did you mean "mlflow"?',
    ),
    (
        "components:\n  model-deployer:\n    flavor: mlserver\n    nonsense: 1\n",
        'matcha.yaml:4: unknown option "nonsense"',
        "",
    ),
    ("components: [mlflow]\n", "matcha.yaml:1: expected a mapping of names to values, found ['mlflow']", ""),
    ("models:\n  movie:\n    sample: 3\n", "matcha.yaml:3: expected `float` <= 1.0, found 3", ""),
    ("models:\n  movie:\n    sample: -0.5\n", "matcha.yaml:3: expected `float` >= 0.0, found -0.5", ""),
    ("models:\n  movie:\n    sample: .nan\n", "matcha.yaml:3: expected a finite number, found nan", ""),
    ("models:\n  movie:\n    min-rows: 0\n", "matcha.yaml:3: expected `int` >= 1, found 0", ""),
    ("models:\n  movie:\n    min_rows: 5\n", 'matcha.yaml:3: unknown option "min_rows"', '"min-rows"'),
    ("models:\n  movie:\n    drift-threshold: 0\n", "matcha.yaml:3: expected `float` > 0.0, found 0", ""),
    (
        "models:\n  movie:\n    thresholds:\n      age: 0.3\n      user.id: -1\n",
        "matcha.yaml:5: expected `float` > 0.0, found -1",
        "",
    ),
    (
        "models:\n  movie:\n    dedicated: true\n    min-replicas: 3\n    max-replicas: 2\n",
        "matcha.yaml:5: max-replicas has to be 3 (min-replicas) or more, found 2",
        "",
    ),
    (
        "components:\n  model-deployer:\n    min-replicas: 3\n    max-replicas: 2\n",
        "matcha.yaml:4: max-replicas has to be 3 (min-replicas) or more, found 2",
        "",
    ),
    (
        "components:\n  model-deployer:\n    min-replicas: 0\n",
        "matcha.yaml:3: expected `int` >= 1, found 0",
        "",
    ),
    (
        "models:\n  movie:\n    sensitive:\n    - age\n    - [sex]\n",
        "matcha.yaml:5: expected `str`, got `array`",
        "",
    ),
    (
        "components:\n  monitoring:\n    interval-minutes: .inf\n",
        "matcha.yaml:3: expected a finite number, found inf",
        "",
    ),
    ("stack: [default]\n", "matcha.yaml:1: unknown stack \"['default']\"", 'Did you mean "default"?'),
    ("target: {a: 1}\n", "matcha.yaml:1: unknown target", "local"),
    ("components:\n  pipeline: [zenml]\n", "matcha.yaml:2: unknown flavor \"['zenml']\" for pipeline", ""),
    ("components:\n  pipeline:\n    flavor: [zenml]\n", "matcha.yaml:3: unknown flavor \"['zenml']\"", ""),
    ("components:\n  pipeline:\n    1: 2\n", 'matcha.yaml:3: unknown option "1"', ""),
    ("stack: 2020-13-45\n", "matcha.yaml: not valid YAML: month must be in 1..12", ""),
    ("stack: !!bool maybe\n", "matcha.yaml: not valid YAML", ""),
    ("[" * 3000, "matcha.yaml: not valid YAML", ""),
    ("models:\n  movie:\n    sample: lots\n", "matcha.yaml:3: expected `float`, got `str`", ""),
    ("a: [1\n", "matcha.yaml:2: not valid YAML", ""),
    (
        'models:\n  movie: {}\n  "Bad Name!": {sample: 0.5}\n',
        'matcha.yaml:3: "Bad Name!" is the name of no deployment',
        "Lower-case letters, digits and dashes",
    ),
    ('models:\n  "movie\\n": {}\n', "matcha.yaml:2: ", "Lower-case"),
    ("- a\n", "matcha.yaml:1: expected a mapping of names to values, found ['a']", ""),
]


@pytest.mark.parametrize(("text", "message", "hint"), BAD, ids=[b[1] for b in BAD])
def test_what_is_not_understood_is_named(tmp_path: Path, text: str, message: str, hint: str) -> None:
    with pytest.raises(StackFileError) as caught:
        load(tmp_path, text)
    assert caught.value.message.startswith(message)
    assert hint in caught.value.resolution
    assert caught.value.exit_code == 2


def test_aliases_that_grow_without_end_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))]
    with pytest.raises(StackFileError, match=r"more than 10000 values, once every alias") as wide:
        load(tmp_path, "\n".join(lines))
    assert "aliases" in wide.value.resolution
    with pytest.raises(StackFileError, match="more than 40 levels"):
        load(tmp_path, "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000))]))


def test_aliases_of_an_ordinary_size_are_read(tmp_path: Path) -> None:
    stack = load(tmp_path, "models:\n  movie: &usual {sample: 0.5}\n  film: *usual\n")
    assert stack.models["movie"].sample == stack.models["film"].sample == 0.5


@pytest.mark.parametrize(("make", "kind"), [(os.mkfifo, "a pipe or a device"), (os.mkdir, "a folder")])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    make(tmp_path / spec.FILE)
    with pytest.raises(StackFileError, match=f"matcha.yaml is {kind}, not a file") as refused:
        load(tmp_path)
    assert refused.value.resolution == "mv matcha.yaml matcha.yaml.old, then matcha init"


def test_a_port_that_is_none_is_named_with_its_service(tmp_path: Path) -> None:
    text = "targets:\n  local:\n    ports:\n      mlflow: 5001\n      mlserver/grpc: 99999\n"
    stack = load(tmp_path, text)
    kind = registry.target_class("local").Options
    with pytest.raises(StackFileError) as bad:
        spec.target_options(tmp_path, "local", stack.targets["local"], kind)
    assert bad.value.message == "matcha.yaml:5: expected `int` <= 65535, found 99999"
    assert bad.value.details == "At targets.local.ports.mlserver/grpc."


scalars = some.one_of(
    some.none(),
    some.booleans(),
    some.integers(),
    some.floats(),
    some.text(max_size=8),
    some.binary(max_size=4),
    some.dates(datetime.date(1900, 1, 1)),
    some.sampled_from(["default", "local", "zenml", "mlflow", "evidently", "flavor", "ports", "sample"]),
)
values = some.recursive(
    scalars, lambda inner: some.lists(inner, max_size=3) | some.dictionaries(scalars, inner, max_size=3)
)
options = some.dictionaries(
    some.sampled_from(
        [*("flavor", "max-body-mb", "min-rows", "ports", "fail", "sample", "thresholds", "sensitive")]
    ),
    values,
    max_size=4,
)
sections = some.dictionaries(
    some.sampled_from([*registry.component_catalogue(), *TARGETS, "movie"]), values | options, max_size=4
)
files = values | some.dictionaries(some.sampled_from(spec.KEYS), values | sections, max_size=5)


fuzzed = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example writes the file anew
)


def read_all(folder: Path) -> None:
    """Everything that is ever read of a stack file, refused or not."""
    try:
        stack = spec.load(folder, registry.component_catalogue(), TARGETS)
        kind = registry.target_class(stack.target).Options
        spec.target_options(folder, stack.target, stack.targets.get(stack.target, {}), kind)
    except BadInput as error:
        assert spec.FILE in error.message


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(data=files)
def test_whatever_values_stand_there_they_are_refused_by_name(tmp_path: Path, data: Any) -> None:
    written = io.StringIO()
    YAML(typ="safe").dump(data, written)
    (tmp_path / spec.FILE).write_text(written.getvalue(), encoding="utf-8")
    read_all(tmp_path)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(text=some.text(alphabet="abst:{}[]&*!|>-?#%@`\"' \n\t\\0.<\x07", max_size=40))
def test_whatever_text_stands_there_it_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / spec.FILE).write_text(text, encoding="utf-8")
    read_all(tmp_path)


def test_a_component_taken_out_that_another_needs(tmp_path: Path) -> None:
    with pytest.raises(StackFileError, match=r"\(\w+\) needs experiment-tracker"):
        load(tmp_path, "components:\n  experiment-tracker: null\n")


def test_null_takes_a_component_out(tmp_path: Path) -> None:
    assert "pipeline" not in load(tmp_path, "components:\n  pipeline: null\n").components


def test_an_unknown_target_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        load(tmp_path, target="nowhere")


def test_settings_of_a_model_are_written_like_all_keys_and_known_by_field(tmp_path: Path) -> None:
    text = (
        "models:\n  movie: {sensitive: [age], drift-threshold: 3, min-rows: 5, thresholds: {user-id: 1}, "
        "reference: a.csv}\n"
    )
    found = load(tmp_path, text).models["movie"]
    assert found.reference == "a.csv"
    assert found.written() == {
        "sensitive": ("age",),
        "drift_threshold": 3.0,
        "min_rows": 5,
        "thresholds": {"user-id": 1.0},
    }


def test_the_room_of_a_model_is_known_by_field_and_apart_from_whether_it_is_dedicated(tmp_path: Path) -> None:
    text = "models:\n  movie: {dedicated: true, min-replicas: 2, max-replicas: 4, cpu: 1, memory-mb: 900}\n"
    found = load(tmp_path, text).models["movie"]
    assert found.dedicated
    assert found.written() == {"min_replicas": 2, "max_replicas": 4, "cpu": 1.0, "memory_mb": 900}


def test_edits_keep_comments_and_order(tmp_path: Path) -> None:
    (tmp_path / spec.FILE).write_text("# mine\nstack: default  # the usual\nmodels:\n  a: {sample: 0.5}\n")
    spec.set_key(tmp_path, ("target",), "local")
    text = (tmp_path / spec.FILE).read_text()
    assert text.startswith("# mine\nstack: default  # the usual\n")
    assert text.endswith("target: local\n")
    assert load(tmp_path).models["a"].sample == 0.5


def test_not_text_at_all(tmp_path: Path) -> None:
    (tmp_path / spec.FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StackFileError):
        load(tmp_path)
