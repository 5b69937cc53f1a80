"""A Kubernetes control plane on loopback, for as long as its standard input stays open. Needs no root.

    python controlplane.py BIN FOLDER

BIN holds etcd, kube-apiserver and kube-controller-manager. Prints `ready`, or what went wrong, as one line
of JSON. FOLDER, which is removed at the end, then holds a kubeconfig for each of USERS. Whoever started this
may be killed: the input then closes, and nothing stays behind. If this is killed itself, Linux ends what it
started.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

USERS = {"admin": "system:masters", "alice": "", "bob": ""}  # name -> group; only admin may do anything
NEEDED = ("etcd", "kube-apiserver", "kube-controller-manager")
STARTS = 3  # another program may take a port between its choice and its use
PATIENCE = 150.0  # seconds until all of it answers, on a busy machine

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: "{server}", certificate-authority-data: {authority}}}}}]
users: [{{name: {user}, user: {{token: "{token}"}}}}]
contexts: [{{name: test, context: {{cluster: test, user: {user}}}}}]
current-context: test
"""


class ControlPlane:
    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._tokens = {user: secrets.token_hex(16) for user in USERS}
        self._deadline = time.monotonic() + PATIENCE

    def start(self) -> None:
        self._make_certificates()
        for left in reversed(range(STARTS)):
            try:
                self._start(*_free_ports(3))
                return
            except RuntimeError:
                self.stop()
                shutil.rmtree(self._folder / "etcd", ignore_errors=True)
                if not left or time.monotonic() > self._deadline:
                    raise

    def stop(self) -> None:
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.wait()
        self._running.clear()

    def _start(self, api: int, store: int, peer: int) -> None:
        client, other = f"http://127.0.0.1:{store}", f"http://127.0.0.1:{peer}"
        self._run(
            "etcd", "--data-dir=etcd", "--unsafe-no-fsync", "--log-level=error",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={other}", f"--initial-advertise-peer-urls={other}",
            f"--initial-cluster=default={other}",
        )  # fmt: skip
        self._until("etcd listens", lambda: _listens(store))
        self._run(
            "kube-apiserver", f"--etcd-servers={client}", "--bind-address=127.0.0.1", f"--secure-port={api}",
            "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/16", "--cert-dir=.", "--tls-cert-file=api.crt",
            "--tls-private-key-file=api.key", "--service-account-key-file=accounts.key",
            "--service-account-signing-key-file=accounts.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC", "--token-auth-file=tokens.csv", "--allow-privileged=true",
        )  # fmt: skip
        server = f"https://127.0.0.1:{api}"
        self._write_kubeconfigs(server)
        self._until("the API is ready", lambda: self._answers(f"{server}/readyz"))
        self._run(
            "kube-controller-manager", "--kubeconfig=admin.kubeconfig", "--leader-elect=false",
            "--secure-port=0", "--service-account-private-key-file=accounts.key", "--root-ca-file=ca.crt",
            "--use-service-account-credentials=true",
        )  # fmt: skip
        accounts = f"{server}/api/v1/namespaces/default/serviceaccounts/default"
        self._until("the controllers work", lambda: self._answers(accounts))

    def _run(self, name: str, *arguments: str) -> None:
        log = (self._folder / f"{name}.log").open("ab")
        with log:
            self._running[name] = subprocess.Popen(
                [str(self._programs / name), *arguments],
                cwd=self._folder,
                # GOGC: what lives for minutes need not be thrifty with memory.
                env={"PATH": os.environ["PATH"], "HOME": str(self._folder), "GOGC": "400"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - there are no threads here
            )

    def _until(self, what: str, holds: Callable[[], bool]) -> None:
        while not holds():
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended before {what}:\n{self._log(name)}")
            if time.monotonic() > self._deadline:
                raise RuntimeError(f"never: {what}\n" + "\n".join(map(self._log, self._running)))
            time.sleep(0.1)

    def _log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]

    def _answers(self, url: str) -> bool:
        asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {self._tokens['admin']}"})
        trusted = ssl.create_default_context(cafile=str(self._folder / "ca.crt"))
        try:
            with urllib.request.urlopen(asked, timeout=5, context=trusted):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def _make_certificates(self) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        self._openssl(
            "req", "-x509", *key, "-days", "7", "-keyout", "ca.key", "-out", "ca.crt",
            "-subj", "/CN=test authority",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
        )  # fmt: skip
        self._openssl("req", *key, "-keyout", "api.key", "-out", "api.csr", "-subj", "/CN=kube-apiserver")
        (self._folder / "api.ext").write_text(
            "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        self._openssl(
            "x509", "-req", "-in", "api.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "7", "-out", "api.crt", "-extfile", "api.ext",
        )  # fmt: skip
        self._openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", "accounts.key")

    def _openssl(self, *arguments: str) -> None:
        made = subprocess.run(
            ["openssl", *arguments], cwd=self._folder, capture_output=True, timeout=60, check=False
        )
        if made.returncode:
            raise RuntimeError(f"openssl {arguments[0]}: {made.stderr.decode(errors='replace')}")

    def _write_kubeconfigs(self, server: str) -> None:
        authority = base64.b64encode((self._folder / "ca.crt").read_bytes()).decode()
        for user, token in self._tokens.items():
            text = KUBECONFIG.format(server=server, authority=authority, user=user, token=token)
            (self._folder / f"{user}.kubeconfig").write_text(text)

    def write_tokens(self) -> None:
        lines = [f'{token},{user},{user},"{USERS[user]}"\n' for user, token in self._tokens.items()]
        (self._folder / "tokens.csv").write_text("".join(lines))


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [s.getsockname()[1] for s in taken]
    finally:
        for s in taken:
            s.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def _say(what: str) -> None:
    print(json.dumps(what), flush=True)


def main(programs: str, folder: str) -> None:
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, lambda *_: sys.exit(1))
    plane = ControlPlane(Path(programs), Path(folder))
    try:
        plane.write_tokens()
        plane.start()
        _say("ready")
        sys.stdin.read()
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        _say(str(error))
    finally:
        plane.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
