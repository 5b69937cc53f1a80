"""A service, an environment and where things lie -> the program to run. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from matcha.host.programs import HealthCheck, Program
from matcha.service import Service, code_digests, digest_of
from matcha.targets.local.layout import Layout
from matcha.targets.local.resolve import Places, base_url, main_port, resolve, secret_names


class Made(msgspec.Struct, frozen=True):
    """A program and the texts of its files, by file name. `health`: where it says that it can do its work."""

    program: Program
    files: dict[str, str]
    live: dict[str, str]
    health: str


def peers(ports: Mapping[str, int], roles: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """`ports` by `service/port` and `roles` by role -> port numbers by role and port name."""
    found: dict[str, dict[str, int]] = {role: {} for role in roles}
    for role, service in roles.items():
        for key, number in ports.items():
            owner, _, name = key.rpartition("/")
            if owner == service:
                found[role][name] = number
    return found


def ports_of(service: str, ports: Mapping[str, int]) -> dict[str, int]:
    """`ports` by `service/port` -> those of one service by port name."""
    split = ((*key.rpartition("/"), number) for key, number in ports.items())
    return {name: number for owner, _, name, number in split if owner == service}


def places(service: Service, layout: Layout, ports: Mapping[str, int], roles: Mapping[str, str]) -> Places:
    """`ports` by `service/port`; `roles` is role -> service."""
    own = {p.name: ports.get(f"{service.name}/{p.name}", 0) for p in service.ports}
    return Places(
        owner=service.name,
        ports=own,
        peers=peers(ports, roles),
        optional=service.talks_to,
        volumes={v: layout.volume(service.name, v) for v in (*service.volumes, *service.caches)},
        databases={d.name: layout.database(service.name, d.name) for d in service.databases},
        store=layout.area(""),
        files=layout.files(service.name),
        live=layout.live(service.name),
    )


def describe(service: Service, python: Path, where: Places, layout: Layout, secrets: Path) -> Made:
    """Raises MatchaError for a placeholder that cannot be resolved."""
    files = _texts(service.files, where)
    check = _check(service, where)
    program = Program(
        name=service.name,
        argv=(str(python), *(resolve(part, where) for part in service.command)),
        env=_env(service, where),
        secrets=secret_names(service),
        secrets_file=secrets,
        folder=layout.work(service.name),
        log=layout.log(service.name),
        stop_seconds=service.stop_seconds,
        health=check,
        digest="",
        conceal=service.conceal,
    )
    digest = digest_of((program, files, code_digests(service)))
    return Made(
        program=msgspec.structs.replace(program, digest=digest),
        files=files,
        live=_texts(service.live, where),
        health=f"{_base(service, where)}{service.health.path}",
    )


def _texts(texts: Mapping[str, str], where: Places) -> dict[str, str]:
    return {name: resolve(text, where, json=name.endswith(".json")) for name, text in texts.items()}


def _env(service: Service, where: Places) -> dict[str, str]:
    env = {key: resolve(value, where) for key, value in service.env.items()}
    folders = [str(p) for p in service.code]
    if folders:
        folders += [env["PYTHONPATH"]] if env.get("PYTHONPATH") else []
        env["PYTHONPATH"] = os.pathsep.join(folders)
    return env


def _base(service: Service, where: Places) -> str:
    return base_url(where.ports.get(service.health.port, 0) or main_port(where.ports))


def _check(service: Service, where: Places) -> HealthCheck:
    """What decides on a restart."""
    probe = service.health
    return HealthCheck(
        url=f"{_base(service, where)}{probe.alive or probe.path}",
        timeout=probe.timeout,
        failures=probe.failures,
        grace=probe.start_timeout,
    )
