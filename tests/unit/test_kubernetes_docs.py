"""What docs/kubernetes.md says of permissions and sizes is what the target asks for."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from matcha import planning, registry
from matcha.cli import commands
from matcha.targets.kubernetes import KubernetesOptions, permissions
from matcha.targets.kubernetes.target import KubernetesTarget
from support.pages import ROOT, blocks

PAGE = ROOT / "docs" / "kubernetes.md"


def test_the_role_on_the_page_is_the_one_that_is_needed() -> None:
    [block] = [b for b in blocks(PAGE) if b.title == "role.yaml"]
    shown, wanted = YAML(typ="safe").load(block.text), permissions.role().to_dict()
    assert shown["metadata"]["name"] == wanted["metadata"]["name"]
    assert shown["rules"] == wanted["rules"]


def test_the_sizes_on_the_page_are_those_of_the_pods() -> None:
    rows = re.findall(r"^\| (\S+) \| ([\d.]+) \| (\d+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    shown = {name.strip("*"): (float(cpu), int(memory)) for name, cpu, memory in rows}
    asked = dict(map(_asked, _workloads()))
    asked["all"] = (round(sum(c for c, _ in asked.values()), 3), sum(m for _, m in asked.values()))
    assert shown == asked


def test_the_page_names_every_container_that_may_use_more_than_twice_its_memory() -> None:
    rows = re.findall(r"^\| `(\S+)`,[^|]* \| (\d+) \| (\d+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    shown = {name: (int(memory), int(limit)) for name, memory, limit in rows}
    sizes = {
        each["name"]: (_request(each)[1], int(each["resources"]["limits"]["memory"].removesuffix("Mi")))
        for each in _containers(KubernetesOptions())
    }
    assert shown == {name: (asked, most) for name, (asked, most) in sizes.items() if most != 2 * asked}


def test_the_page_names_the_pod_that_may_use_more_of_a_nodes_disk() -> None:
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert "a pod that takes more than 10Gi is evicted, a builder at more than 24Gi" in page
    assert "the one of the nightly dump at more than twice `database-size`" in page
    limits = {
        each["name"]: each["resources"]["limits"]["ephemeral-storage"]
        for each in _containers(KubernetesOptions(database_size="8Gi"))
    }
    more = {name for name, limit in limits.items() if limit != "10Gi"}
    assert more == {"dump", "upload", "environment-builder"}
    assert limits["environment-builder"] == "24Gi"
    assert limits["dump"] == limits["upload"] == "16384Mi"


CASES = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").partition("\n## On a cluster\n")[2]


@pytest.mark.parametrize("message", re.findall(r'\*\*"(.+?)"\*\*', CASES, re.DOTALL))
def test_a_message_in_the_cases_is_one_that_is_said(message: str) -> None:
    """Between its dots it is some line of code, word for word."""
    said = [part.strip() for part in re.split(r"\.\.\.", " ".join(message.split()))]
    parts = [part for part in said if re.search(r"\w", part)]
    assert parts
    for part in parts:
        assert any(part in code for code in _texts()), part


@functools.cache
def _texts() -> list[str]:
    """Every string of the code, without what is put into it."""
    folders = ("targets/kubernetes", "api", "components/monitoring/inside/matcha_monitoring")
    files = [file for folder in folders for file in (ROOT / "src/matcha" / folder).glob("*.py")]
    trees = [
        ast.parse(file.read_text(encoding="utf-8")) for file in (*files, ROOT / "src/matcha/host/leases.py")
    ]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`(matcha [^`]+)`", CASES))))
def test_a_command_in_the_cases_parses(command: str) -> None:
    words = shlex.split(command)
    found = commands.load(words[1])
    with found.make_context(words[1], words[2:], obj={"debug": False}) as context:
        assert context.command is found


@pytest.mark.parametrize("option", re.findall(r"`([a-z-]+)(?:: [a-z]+)?` under", CASES))
def test_an_option_in_the_cases_is_one(option: str) -> None:
    assert option.replace("-", "_") in KubernetesOptions.__struct_fields__


def _workloads() -> list[dict[str, Any]]:
    return [d for d in _documents(KubernetesOptions()) if d["kind"] in ("Deployment", "StatefulSet")]


def _documents(options: KubernetesOptions) -> list[dict[str, Any]]:
    found = [cls(cls.Options()) for fs in registry.component_catalogue().values() for cls in fs.values()]
    wanted = planning.want(found, ())
    target = KubernetesTarget(Path("/nowhere"), options)
    return list(target.manifests(wanted.services, wanted.environments))


def _containers(options: KubernetesOptions) -> Iterator[dict[str, Any]]:
    """Of every pod, whatever object makes it."""
    for document in _documents(options):
        spec = document.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            yield from (*template["spec"]["containers"], *(template["spec"].get("initContainers") or ()))


def _asked(workload: dict[str, Any]) -> tuple[str, tuple[float, int]]:
    """As the scheduler counts: all containers together, or an init container that asks for more."""
    pod = workload["spec"]["template"]["spec"]
    running, before = (
        [_request(c) for c in pod.get(part) or [{}]] for part in ("containers", "initContainers")
    )
    together = [sum(of) for of in zip(*running, strict=True)]
    most = [max(of) for of in zip(*before, strict=True)]
    cpu, memory = (max(a, b) for a, b in zip(together, most, strict=True))
    return workload["metadata"]["name"], (round(cpu, 3), int(memory))


def _request(container: dict[str, Any]) -> tuple[float, int]:
    asked = container.get("resources", {}).get("requests", {"cpu": "0", "memory": "0Mi"})
    cpu = asked["cpu"]
    cores = float(cpu.removesuffix("m")) / 1000 if cpu.endswith("m") else float(cpu)
    return cores, int(asked["memory"].removesuffix("Mi"))
