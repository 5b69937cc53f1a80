"""matcha.yaml: every complaint names the key, the line and what was meant."""

from pathlib import Path

import pytest

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
    ("models:\n  movie:\n    sample: 3\n", "matcha.yaml:3: expected a share between 0 and 1, found 3.0", ""),
    ("models:\n  movie:\n    sample: lots\n", "matcha.yaml:3: expected `float`, got `str`", ""),
    ("a: [1\n", "matcha.yaml:2: not valid YAML", ""),
    ("- a\n", "matcha.yaml:1: expected a mapping of names to values, found ['a']", ""),
]


@pytest.mark.parametrize(("text", "message", "hint"), BAD, ids=[b[1] for b in BAD])
def test_what_is_not_understood_is_named(tmp_path: Path, text: str, message: str, hint: str) -> None:
    with pytest.raises(StackFileError) as caught:
        load(tmp_path, text)
    assert caught.value.message.startswith(message)
    assert hint in caught.value.resolution
    assert caught.value.exit_code == 2


def test_a_component_taken_out_that_another_needs(tmp_path: Path) -> None:
    with pytest.raises(StackFileError, match=r"\(\w+\) needs experiment-tracker"):
        load(tmp_path, "components:\n  experiment-tracker: null\n")


def test_null_takes_a_component_out(tmp_path: Path) -> None:
    assert "pipeline" not in load(tmp_path, "components:\n  pipeline: null\n").components


def test_an_unknown_target_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        load(tmp_path, target="nowhere")


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
