"""No process of the stack opens a connection off this machine: not at its start, nor at work, nor in passing.

Every connect and send of every process is watched by strace, name look-ups included.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from matcha.api import _models, _workspace
from support.jobs import JOBS
from support.matcha import COMMAND, Matcha

CALLS = "connect,sendto,sendmsg,sendmmsg,execve,clone,clone3,fork,vfork"
STRACE = ("strace", "-f", "--seccomp-bpf", "-qq", "-s", "512", "-e", f"trace={CALLS}", "-e", "signal=none")
ADDRESS = re.compile(
    r'sin_port=htons\((\d+)\), sin_addr=inet_addr\("([^"]+)"\)'
    r'|sin6_port=htons\((\d+)\),.*?inet_pton\(AF_INET6, "([^"]+)"'
)
STARTED = re.compile(r"^(\d+) .*\b(?:clone3?|v?fork)\b.* = (\d+)$")
PROGRAM = re.compile(r'^(\d+) execve\("[^"]*", (\[.*?\])')

WORK = """set -e
matcha provision --yes
matcha run -- python credit.py
matcha run -- python zenml_pipeline.py
matcha deploy models:/watched/1
cut -d, -f1,2 "watched 0.csv" | head -500 > rows.csv
matcha predict watched --input rows.csv > answers
matcha monitor watched
curl -sf "$(matcha get monitoring dashboard-url)" > page
matcha status
matcha destroy --yes --delete-data
"""


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what strace writes; skips, or fails where all is required, when it cannot watch."""
    folder = tmp_path_factory.mktemp("strace")
    reason = "strace is not installed"
    if sys.platform == "linux" and shutil.which("strace"):
        command = [*STRACE, "-o", str(folder / "try"), "true"]
        tried = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        reason = f"strace cannot watch here: {tried.stderr.strip()}" if tried.returncode else ""
    if reason:
        (pytest.fail if os.environ.get("MATCHA_REQUIRE_ALL") else pytest.skip)(reason)
    return folder


def off_the_machine(lines: list[str]) -> Iterator[str]:
    """`address port, by command line` of each that is not loopback, and of name servers wherever they are."""
    parents: dict[str, str] = {}
    programs: dict[str, str] = {}
    for line in lines:
        pid = line.partition(" ")[0]
        if found := STARTED.match(line):
            parents[found[2]] = found[1]
        elif found := PROGRAM.match(line):
            programs[pid] = found[2]
        for v4_port, v4, v6_port, v6 in ADDRESS.findall(line):
            address, port = ipaddress.ip_address(v4 or v6), int(v4_port or v6_port)
            if port == 53 or not (address.is_loopback or _is_mapped_loopback(address)):
                yield f"{address} port {port}, by {_program(pid, programs, parents)}"


def _is_mapped_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped is not None and bool(mapped.is_loopback)


def _program(pid: str, programs: dict[str, str], parents: dict[str, str]) -> str:
    while pid not in programs and pid in parents:
        pid = parents[pid]
    return programs.get(pid, f"process {pid}")


def test_the_watch_sees_what_it_is_for(watch: Path) -> None:
    """A look-up, a connection and a datagram off the machine are found, and loopback is not."""
    script = """
import socket
for kind, address in ((socket.SOCK_DGRAM, ("192.0.2.1", 53)), (socket.SOCK_STREAM, ("127.0.0.1", 9))):
    with socket.socket(socket.AF_INET, kind) as link:
        link.connect_ex(address)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
    try:
        link.sendto(b"x", ("192.0.2.2", 4))
    except OSError:
        pass
"""
    log = watch / "self"
    subprocess.run([*STRACE, "-o", str(log), sys.executable, "-c", script], check=True, timeout=60)
    found = list(off_the_machine(log.read_text().splitlines()))
    assert [each.split(", by")[0] for each in found] == ["192.0.2.1 port 53", "192.0.2.2 port 4"]


def test_no_process_talks_to_another_machine(stack: Matcha, watch: Path, tmp_path: Path) -> None:
    _models.install(_workspace.environment())  # with `stack`, all that would be fetched is here
    matcha = Matcha(tmp_path / "project", tmp_path / "home")
    shutil.copytree(JOBS, matcha.project, dirs_exist_ok=True)
    script = f'matcha() {{ {shlex.join(COMMAND)} "$@"; }}\n{WORK}'
    log = watch / "all"
    command = [*STRACE, "-o", str(log), "bash", "-c", script]
    done = subprocess.run(
        command, cwd=matcha.project, env=matcha.env, capture_output=True, text=True, timeout=900, check=False
    )
    try:
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        lines = log.read_text(errors="replace").splitlines()
        told = sum("sin_addr" in line for line in lines)
        assert told > 100, "servers and clients talked on loopback"
        assert sorted(set(off_the_machine(lines))) == []
    finally:
        matcha("destroy", "--yes", "--delete-data", code=None)
        for process in matcha.processes():
            process.kill()
