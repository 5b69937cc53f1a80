"""A small gateway: reads Gateways and HTTPRoutes of a cluster, says of them what a controller would, and
routes by TLS as they say. Stands where Envoy Gateway, Istio or the gateway of a cloud would.

It needs nothing but Python: `python edge.py CLASS PORT` runs it in a pod, by the pod's own account.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

GATEWAYS = "/apis/gateway.networking.k8s.io/v1"
CONTROLLER = "test.matcha/edge"
ADDRESS = "203.0.113.10"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PERIOD = 0.3
Document = Mapping[str, Any]


class Api:
    """Of a cluster, by a token."""

    def __init__(self, server: str, token: str, authority: str) -> None:
        self._server = server
        self._token = token
        self._trust = ssl.create_default_context(cadata=authority)

    def get(self, path: str) -> Any:
        """None for what is not there."""
        try:
            return self._ask("GET", path)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
            raise

    def say(self, kind: str, of: Document, status: Document) -> None:
        """As its status, where it is another."""
        metadata = of["metadata"]
        path = f"{GATEWAYS}/namespaces/{metadata['namespace']}/{kind}/{metadata['name']}/status"
        if of.get("status") != status:
            with contextlib.suppress(urllib.error.HTTPError):  # it went meanwhile
                self._ask("PATCH", path, {"status": status})

    def _ask(self, method: str, path: str, document: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/merge-patch+json"}
        body = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(self._server + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=10, context=self._trust) as answer:
            return json.load(answer)


class Rule(NamedTuple):
    host: str
    prefix: str
    method: str
    backend: tuple[str, int]  # host and port


class Edge:
    """`reach`: where a Service's port is from here."""

    def __init__(
        self,
        api: Api,
        gateway_class: str,
        reach: Callable[[str, str, int], tuple[str, int]] = lambda space, name, port: (
            f"{name}.{space}",
            port,
        ),
    ) -> None:
        self._api = api
        self._class = gateway_class
        self._reach = reach
        self.rules: list[Rule] = []
        self.certificates: dict[str, ssl.SSLContext] = {}
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> Edge:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._ends.set()
        self._thread.join(20)

    def _follow(self) -> None:
        while not self._ends.wait(PERIOD):
            try:
                self.look()
            except (OSError, http.client.HTTPException) as error:
                print("edge:", error, flush=True)

    def look(self) -> None:
        gateways = [
            g
            for g in (self._api.get(f"{GATEWAYS}/gateways") or {}).get("items", ())
            if g["spec"]["gatewayClassName"] == self._class
        ]
        routes = (self._api.get(f"{GATEWAYS}/httproutes") or {}).get("items", ())
        listeners = [(g, each) for g in gateways for each in g["spec"]["listeners"]]
        certificates = {id(each): self._certificate(g, each) for g, each in listeners}
        rules: list[Rule] = []
        for route in routes:
            rules += self._routed(route, listeners)
        for gateway in gateways:
            self._told(gateway, certificates)
        self.certificates = {
            each["hostname"]: found for _, each in listeners if (found := certificates[id(each)]) is not None
        }
        self.rules = rules

    def _certificate(self, gateway: Document, listener: Document) -> ssl.SSLContext | None:
        space = gateway["metadata"]["namespace"]
        [ref] = listener["tls"]["certificateRefs"]
        found = self._api.get(f"/api/v1/namespaces/{space}/secrets/{ref['name']}")
        if found is None:
            return None
        parts = [base64.b64decode(found["data"][key]) for key in ("tls.crt", "tls.key")]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"\n".join(parts))
            file.flush()
            context.load_cert_chain(file.name)
        return context

    def _told(self, gateway: Document, certificates: Mapping[int, Any]) -> None:
        generation = gateway["metadata"]["generation"]
        listeners = []
        for each in gateway["spec"]["listeners"]:
            has = certificates[id(each)] is not None
            lacks = {"reason": "InvalidCertificateRef", "message": "Secret has no certificate."}
            listeners.append(
                {
                    "name": each["name"],
                    "attachedRoutes": 1,
                    "supportedKinds": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}],
                    "conditions": [
                        _condition("Accepted", True, generation),
                        _condition("ResolvedRefs", has, generation, **({} if has else lacks)),
                        _condition("Programmed", has, generation),
                    ],
                }
            )
        conditions = [_condition(kind, True, generation) for kind in ("Accepted", "Programmed")]
        address = [{"type": "IPAddress", "value": ADDRESS}]
        self._say(
            "gateways", gateway, {"addresses": address, "conditions": conditions, "listeners": listeners}
        )

    def _say(self, kind: str, of: Document, status: Document) -> None:
        """What is as before keeps its moment."""
        self._api.say(kind, of, _kept(status, of.get("status") or {}))

    def _routed(self, route: Document, listeners: list[tuple[Document, Document]]) -> Iterator[Rule]:
        metadata, spec = route["metadata"], route["spec"]
        parents = []
        for parent in spec["parentRefs"]:
            space = parent.get("namespace", metadata["namespace"])
            mine = [(g, each) for g, each in listeners if _name(g) == (space, parent["name"])]
            if not mine:
                continue
            named = [each for _, each in mine if each["name"] == parent.get("sectionName", each["name"])]
            fits = [each for each in named if each["hostname"] in spec["hostnames"]]
            backends = [b for rule in spec["rules"] for b in rule["backendRefs"]]
            there = all(self._has(metadata["namespace"], b["name"], b["port"]) for b in backends)
            generation = metadata["generation"]
            why = "NoMatchingListenerHostname" if named else "NoMatchingParent"
            accepted = {} if fits else {"reason": why, "message": "no listener of the Gateway takes it"}
            lacks = {"reason": "BackendNotFound", "message": "the Service has no such port"}
            conditions = [
                _condition("Accepted", bool(fits), generation, **accepted),
                _condition("ResolvedRefs", there, generation, **({} if there else lacks)),
            ]
            parents.append({"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions})
            for listener in fits:
                for rule in spec["rules"]:
                    [backend] = rule["backendRefs"]
                    at = self._reach(metadata["namespace"], backend["name"], backend["port"])
                    for match in rule["matches"]:
                        assert match["path"]["type"] == "PathPrefix"
                        yield Rule(listener["hostname"], match["path"]["value"], match["method"], at)
        if parents:
            self._say("httproutes", route, {"parents": parents})

    def _has(self, space: str, service: str, port: int) -> bool:
        found = self._api.get(f"/api/v1/namespaces/{space}/services/{service}")
        return found is not None and any(each["port"] == port for each in found["spec"]["ports"])

    def rule(self, host: str, path: str, method: str) -> Rule | None:
        """By whole parts of the path."""
        for rule in self.rules:
            prefix = rule.prefix.rstrip("/")
            if (rule.host, rule.method) == (host, method) and (
                path == prefix or path.startswith(f"{prefix}/")
            ):
                return rule
        return None

    def server(self, address: str, port: int) -> ThreadingHTTPServer:
        """That speaks TLS, with the certificate of the host that a client names."""
        made = ThreadingHTTPServer((address, port), _handler(self))
        made.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

        def choose(connection: Any, name: str | None, _: Any) -> int | None:
            found = self.certificates.get(name or "")
            if found is None:
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            connection.context = found
            return None

        context.sni_callback = choose
        made.socket = context.wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
        return made


def _name(of: Document) -> tuple[str, str]:
    return of["metadata"]["namespace"], of["metadata"]["name"]


def _condition(kind: str, holds: bool, generation: int, **more: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True" if holds else "False",
        "reason": more.get("reason", kind),
        "message": more.get("message", ""),
        "observedGeneration": generation,
        "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _kept(new: Any, old: Any) -> Any:
    """`new` with the moments of `old` where all else of a condition is the same."""
    if isinstance(new, dict) and isinstance(old, dict):
        if (
            "lastTransitionTime" in new
            and {**new, "lastTransitionTime": old.get("lastTransitionTime")} == old
        ):
            return old
        return {key: _kept(value, old.get(key)) for key, value in new.items()}
    if isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        return [_kept(*pair) for pair in zip(new, old, strict=True)]
    return new


def _handler(edge: Edge) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            """With the client's address behind those that it says itself."""
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            host = self.headers.get("Host", "").partition(":")[0]
            rule = edge.rule(host, urllib.parse.urlsplit(self.path).path, self.command)
            if rule is None:
                self._answer(404, [], b"no route")
                return
            said = self.headers.get("X-Forwarded-For")
            own = ", ".join(filter(None, [said, self.client_address[0]]))
            headers = {
                k: v for k, v in self.headers.items() if k.lower() not in ("connection", "x-forwarded-for")
            }
            try:
                connection = http.client.HTTPConnection(*rule.backend, timeout=60)
                connection.request(self.command, self.path, body, {**headers, "X-Forwarded-For": own})
                answer = connection.getresponse()
                content = answer.read()
            except OSError:
                self._answer(503, [], b"no backend")
                return
            connection.close()
            self._answer(answer.status, answer.getheaders(), content)

        do_GET = do_POST = do_PUT = do_DELETE = _pass_on

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in (
                    "content-length",
                    "connection",
                    "transfer-encoding",
                    "date",
                    "server",
                ):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def main(gateway_class: str, port: str) -> None:
    token, authority = ((ACCOUNT / name).read_text() for name in ("token", "ca.crt"))
    edge = Edge(Api("https://kubernetes.default.svc", token, authority), gateway_class).start()
    edge.server("0.0.0.0", int(port)).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
