"""What the description of every component has to keep. Components come from the registry."""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

import matcha
from matcha import planning, registry
from matcha.access import Output
from matcha.component import Component, Deployment
from matcha.service import PLACEHOLDER, PLACEHOLDERS, service_digest
from support.access import FolderAccess

CATALOGUE = registry.component_catalogue()
COMPONENTS = [cls for flavors in CATALOGUE.values() for cls in flavors.values()]
# What `matcha get` prints, and people's scripts ask for by these names; more may come, none may go.
PROPERTIES = {
    "experiment-tracker": {"flavor", "tracking-url"},
    "model-deployer": {"flavor", "base-url", "grpc-url", "metrics-url"},
    "pipeline": {"flavor", "server-url", "server-username", "server-password"},
    "orchestrator": {"flavor"},
    "data-version-control": {"flavor", "remote-url"},
    "monitoring": {"flavor", "dashboard-url"},
}
MODEL = Deployment(
    name="m",
    asked="models:/m/1",
    uri="models:/m/1",
    environment="0123456789abcdef",
    python="3.11",
    settings={"sample": 0.5},
)
ALONE = msgspec.structs.replace(MODEL, name="a" * 52, dedicated=True)
each = pytest.mark.parametrize("cls", COMPONENTS, ids=lambda c: f"{c.role}-{c.flavor}")


def made(cls: type[Component]) -> Component:
    return cls(cls.Options())


@each
def test_it_says_what_it_is(cls: type[Component]) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9-]+", cls.role)
    assert re.fullmatch(r"[a-z][a-z0-9-]+", cls.flavor)
    assert cls.title


@each
def test_options_refuse_what_they_do_not_know(cls: type[Component]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"no-such-option": 1}, cls.Options)


@each
@pytest.mark.parametrize(
    "deployments",
    [(), (MODEL,), (ALONE,)],
    ids=["no model", "a model of its own environment", "a dedicated model"],
)
def test_services_are_pure_and_whole(cls: type[Component], deployments: tuple[Deployment, ...]) -> None:
    component = made(cls)
    services = component.services(deployments)
    assert services == made(cls).services(deployments)
    for service in services:
        assert any(p.name == service.health.port for p in service.ports)
        assert all(path.is_dir() for path in service.code)
        assert service.command
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", service.name), "a cluster takes it"
        assert not any(secret in repr(service.env) for secret in service.secrets)


@each
def test_live_files_do_not_change_the_process(cls: type[Component]) -> None:
    component = made(cls)
    environments = {e.name: e for e in component.environments()}
    other = msgspec.structs.replace(MODEL, environment="", python="")
    for before, after in zip(component.services(()), component.services((other,)), strict=True):
        environment = environments[before.environment]
        assert service_digest(before, environment) == service_digest(after, environment)


@each
def test_every_placeholder_is_one_a_target_resolves(cls: type[Component]) -> None:
    for service in made(cls).services((MODEL, ALONE)):
        texts = [*service.command, *service.env.values(), *service.files.values(), *service.live.values()]
        for text in texts:
            for match in PLACEHOLDER.finditer(text):
                assert match.group(1) in PLACEHOLDERS, f"{service.name}: {match.group(0)}"


@each
def test_environments_are_locked_with_hashes(cls: type[Component]) -> None:
    for environment in made(cls).environments():
        lock = environment.lock.read_text()
        pins = re.findall(r"^[a-z0-9][\w.-]*(?:\[[^]]*\])?==", lock, re.MULTILINE | re.IGNORECASE)
        assert pins
        assert lock.count("--hash=sha256:") >= len(pins)


class SetUp(FolderAccess):
    """Of a stack that has its secrets, whatever they are called."""

    def secret(self, name: str) -> str:
        return "secret"


def test_the_names_that_get_knows_stay(tmp_path: Path) -> None:
    access = SetUp(tmp_path, dict.fromkeys(CATALOGUE, "http://127.0.0.1:9000"))
    found: dict[str, Mapping[str, Output]] = {}
    for component in map(made, COMPONENTS):
        found |= component.resources(access)
    assert {name: names & found.get(name, {}).keys() for name, names in PROPERTIES.items()} == PROPERTIES
    sensitive = {(r, p) for r, outputs in found.items() for p, output in outputs.items() if output.sensitive}
    assert sensitive == {("pipeline", "server-password")}


@each
def test_it_holds_nothing_of_a_stack_that_never_had_it(cls: type[Component], tmp_path: Path) -> None:
    assert [held for held in made(cls).holdings(FolderAccess(tmp_path)) if held.count] == []


@each
def test_its_folder_explains_it(cls: type[Component]) -> None:
    folder = Path(matcha.__file__).parent / "components" / cls.__module__.split(".")[2]
    assert (folder / "README.md").read_text().strip()


def test_roles_that_are_needed_exist() -> None:
    for cls in COMPONENTS:
        services = made(cls).services(())
        own = {s.role for s in services}
        for role in (*cls.requires, *(r for s in services for r in (*s.needs, *s.talks_to))):
            assert role in {*CATALOGUE, *own}, f"{cls.role} needs {role}"


@each
def test_what_runs_apart_can_be_done_without(cls: type[Component]) -> None:
    """Nobody may need it, nor ask for more of it than an address that may be empty."""
    services = made(cls).services(())
    apart = {s.role for s in services if s.apart}
    for service in services:
        assert not apart & {service.role, *service.needs} or service.apart
        texts = (*service.command, *service.env.values(), *service.files.values())
        assert not [t for t in texts for role in apart if f"{{address:{role}" in t]


def test_the_default_stack_has_an_order() -> None:
    components = [made(cls) for cls in COMPONENTS if "default" in cls.stacks]
    wanted = planning.want(components, ())
    keys = [r.key for r in planning.in_order(wanted.resources)]
    for resource in wanted.resources:
        assert all(keys.index(need) < keys.index(resource.key) for need in resource.needs)


def test_no_list_of_components_exists_elsewhere() -> None:
    """Adding a component is one new folder: no other module names a flavor."""
    source = Path(matcha.__file__).parent
    flavors = {cls.flavor for cls in COMPONENTS}
    for path in source.rglob("*.py"):
        place = path.relative_to(source).parts
        if place[0] in ("components", "inside"):
            continue
        named = flavors & set(re.findall(r'["\'](\w+)["\']', path.read_text()))
        assert not named, f"{path.name} names {named}"
