"""Credential plugins of a kubeconfig: real programs that print a token, or do something else."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psutil
import pytest
from lightkube.config.models import User, UserExec
from lightkube.core.exceptions import ConfigError

from matcha.targets.kubernetes.plugin import Plugin, without_stack
from matcha.targets.kubernetes.signing import auth_of

V1BETA1 = "client.authentication.k8s.io/v1beta1"
TOKEN = 'print(json.dumps({"status": {"token": "t"}}))'


def program(folder: Path, code: str) -> UserExec:
    script = folder / "plugin"
    body = textwrap.dedent(code)
    script.write_text(f"#!{sys.executable}\nimport json, os, pathlib, subprocess, sys, time\n{body}\n")
    script.chmod(0o700)
    return UserExec(apiVersion=V1BETA1, command=str(script))


def signed(auth: httpx2.Auth) -> str:
    request = httpx2.Request("GET", "https://cluster")
    flow = auth.sync_auth_flow(request)
    return str(next(flow).headers["Authorization"])


def wait(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(pid_file: Path) -> bool:
    pid = int(pid_file.read_text())
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("loaded", "left"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:7070", "AWS_ACCESS_KEY_ID": "s", "AWS_REGION": "r"}, {}),
        ({"AWS_ACCESS_KEY_ID": "mine"}, {"AWS_ACCESS_KEY_ID": "mine"}),
        (
            {
                "AWS_ENDPOINT_URL": "https://s3.example.com",
                "AWS_ACCESS_KEY_ID": "mine",
                "MATCHA_PROJECT": "/p",
            },
            {"AWS_ACCESS_KEY_ID": "mine", "MATCHA_PROJECT": "/p"},
        ),
        ({"AWS_ENDPOINT_URL": "https://my.aws"}, {"AWS_ENDPOINT_URL": "https://my.aws"}),
    ],
)
def test_the_keys_of_a_stack_s_store_are_no_way_into_a_cluster(
    tmp_path: Path, loaded: dict[str, str], left: dict[str, str]
) -> None:
    """`eval "$(matcha env)"` or connect() would otherwise lock a user of EKS out."""
    mine = {"AWS_PROFILE": "me", "PATH": os.environ["PATH"]}
    assert without_stack({**mine, **loaded}) == {**mine, **left}
    code = f"{TOKEN.replace(chr(34) + 't' + chr(34), 'json.dumps(dict(os.environ))')}"
    seen = signed(Plugin(program(tmp_path, code), lambda: {**mine, **loaded})).removeprefix("Bearer ")
    found = {k: v for k, v in json.loads(seen).items() if k.startswith(("AWS_", "MATCHA_"))}
    assert found == {"AWS_PROFILE": "me", **left}


def test_one_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    hanging = program(
        tmp_path,
        f"""\
        child = subprocess.Popen(["sleep", "60"])
        pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
        child.wait()
        """,
    )
    with pytest.raises(ConfigError, match=r"plugin, .* gave no token within 1 seconds"):
        signed(Plugin(hanging, seconds=1.0))
    wait(lambda: is_gone(tmp_path / "pid"))


def test_nobody_answers_its_questions(tmp_path: Path) -> None:
    asking = program(tmp_path, 'sys.stdin.read() or sys.exit("nobody there")')
    reader, writer = os.pipe()  # the stdin of this process, as a terminal's: it never ends
    kept = os.dup(0)
    os.dup2(reader, 0)
    try:
        with pytest.raises(ConfigError, match="nobody there"):
            signed(Plugin(asking, seconds=20.0))
    finally:
        os.dup2(kept, 0)
        for each in (kept, reader, writer):
            os.close(each)


def test_who_sits_at_a_terminal_reads_what_it_says(tmp_path: Path) -> None:
    plugin = program(tmp_path, f'print("open the page and type ABC", file=sys.stderr)\n{TOKEN}')
    code = (
        "import httpx2\nfrom lightkube.config.models import User, UserExec\n"
        "from matcha.targets.kubernetes.signing import auth_of\n"
        f"user = User(exec=UserExec(apiVersion={V1BETA1!r}, command={plugin.command!r}))\n"
        "flow = auth_of(user).sync_auth_flow(httpx2.Request('GET', 'https://cluster'))\n"
        "assert next(flow).headers['Authorization'] == 'Bearer t'\n"
    )
    ours, theirs = pty.openpty()
    done = subprocess.run([sys.executable, "-c", code], stderr=theirs, timeout=60, check=False)
    os.close(theirs)
    shown = os.read(ours, 4096)
    os.close(ours)
    assert b"open the page and type ABC" in shown
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ('sys.exit("sign in first")', "ended with status 1: sign in first"),
        ('print(json.dumps({"status": {"clientCertificateData": "c"}}))', "but a client certificate"),
        ("print(1)", "gave no token"),
    ],
)
def test_what_is_no_token_is_said(tmp_path: Path, code: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        signed(Plugin(program(tmp_path, code)))


def test_threads_that_need_a_token_have_it_run_once(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    auth = Plugin(program(tmp_path, f"time.sleep(0.3)\nopen({str(runs)!r}, 'a').write('.')\n{TOKEN}"))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: signed(auth), range(8))) == {"Bearer t"}
    assert runs.read_text() == "."


def test_a_request_that_is_given_up_takes_the_program_with_it(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    user = User(
        exec=program(tmp_path, f"pathlib.Path({str(started)!r}).write_text(str(os.getpid()))\ntime.sleep(60)")
    )

    async def give_up() -> None:
        auth = auth_of(user)
        assert auth
        flow = auth.async_auth_flow(httpx2.Request("GET", "https://cluster"))
        asked = asyncio.ensure_future(anext(flow))
        while not (started.exists() and started.read_text()):
            await asyncio.sleep(0.02)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert is_gone(started)

    asyncio.run(give_up())
