"""The stack file that `init` writes: what can be set, all of it, and nothing that changes anything."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from matcha import registry, spec
from matcha.api import _template

TARGETS = ("local", "kubernetes")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / spec.FILE).write_text(_template.default())
    return tmp_path


def uncommented(text: str) -> str:
    """Keys, and what is indented below them; comments stay."""
    return re.sub(r"^# (?=[a-z]+:|  )", "", text, flags=re.MULTILINE)


def told(root: Path) -> tuple[object, ...]:
    stack = spec.load(root, registry.component_catalogue(), TARGETS)
    options = {role: (c.flavor, msgspec.structs.asdict(c.options)) for role, c in stack.components.items()}
    return stack.name, stack.target, options


def test_as_it_is_written_it_changes_nothing(written: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert told(written) == told(tmp_path_factory.mktemp("empty"))


def test_a_target_is_chosen_where_the_template_has_it_commented_out(written: Path) -> None:
    before = _template.default().splitlines()
    spec.choose_target(written, "kubernetes")
    after = (written / spec.FILE).read_text().splitlines()
    [(old, new)] = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert old.startswith("# target: local") and new == "target: kubernetes"
    assert told(written)[1] == "kubernetes"


def test_a_target_is_chosen_in_a_file_of_ones_own_too(tmp_path: Path) -> None:
    own = "models:\n  a: {sample: 0.5}\n# target: of ours\n  b: {sample: 0.5}\n"
    (tmp_path / spec.FILE).write_text(own)
    spec.choose_target(tmp_path, "kubernetes")
    assert told(tmp_path)[1] == "kubernetes" and "# target: of ours" in (tmp_path / spec.FILE).read_text()


def test_uncommented_it_says_what_holds_anyway(written: Path) -> None:
    before = told(written)
    (written / spec.FILE).write_text(uncommented(_template.default()))
    assert told(written) == before
    stack = spec.load(written, registry.component_catalogue(), TARGETS)
    assert stack.models == {"movie": spec.ModelSettings()}
    for name, options in stack.targets.items():
        kind = registry.target_class(name).Options
        assert spec.target_options(written, name, options, kind) == kind()
    assert list(stack.targets) == sorted(TARGETS)


def test_every_key_that_can_be_set_is_in_it() -> None:
    text = uncommented(_template.default())
    assert re.findall(r"^(\w+):", text, re.MULTILINE) == list(spec.KEYS)
    catalogue = registry.component_catalogue()
    structs = [cls.Options for flavors in catalogue.values() for cls in flavors.values()]
    structs += [registry.target_class(name).Options for name in TARGETS] + [spec.ModelSettings]
    keys = {field.encode_name for struct in structs for field in msgspec.structs.fields(struct)}
    assert {"load-seconds", "ports", "thresholds", "retention-rows"} <= keys
    assert keys <= set(re.findall(r"^    ([\w-]+):", text, re.MULTILINE))
    assert set(catalogue) <= set(re.findall(r"^  ([\w-]+):", text, re.MULTILINE))
