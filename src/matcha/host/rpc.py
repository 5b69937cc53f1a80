"""supervisord's XML-RPC over its unix socket, in the standard library alone.

Also loaded by the health listener, which runs without Matcha and for as long as the stack. `xmlrpc.client`
would cost it 4 MB, and every `matcha status` 20 ms, for types that supervisord never sends.
"""

from __future__ import annotations

import socket
import xml.etree.ElementTree as ET
from typing import Any

SHUTDOWN_STATE, BAD_NAME, ABNORMAL, SPAWN_ERROR = 6, 10, 40, 50
ALREADY_STARTED, NOT_RUNNING, ALREADY_ADDED, STILL_RUNNING = 60, 70, 90, 91


class Fault(Exception):
    """supervisord's answer to a call that it refused; codes are those of `supervisor.xmlrpc.Faults`."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Rpc:
    """Calls raise Fault, or OSError when there is no daemon or none that answers in `timeout` seconds."""

    def __init__(self, path: str, timeout: float = 5.0) -> None:
        self.path, self.timeout = path, timeout

    def __call__(self, method: str, *params: str | bool) -> Any:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(self.timeout)
            link.connect(self.path)
            link.sendall(request(f"supervisor.{method}", params))
            return response(_read_all(link))


def request(method: str, params: tuple[str | bool, ...]) -> bytes:
    values = "".join(f"<param><value>{_argument(param)}</value></param>" for param in params)
    call = f"<methodCall><methodName>{method}</methodName><params>{values}</params></methodCall>".encode()
    head = f"POST /RPC2 HTTP/1.0\r\nContent-Type: text/xml\r\nContent-Length: {len(call)}\r\n\r\n"
    return head.encode() + call


def response(raw: bytes) -> Any:
    """The value in a whole HTTP response. Raises Fault, and ConnectionError for anything else."""
    head, _, body = raw.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise ConnectionError(f"supervisord answered {head[:80]!r}")
    try:
        tree = ET.fromstring(body)  # noqa: S314 - written by our own daemon
    except ET.ParseError as error:
        raise ConnectionError(f"supervisord's answer is cut short: {error}") from None
    fault = tree.find("fault/value")
    if fault is not None:
        details = _value(fault)
        raise Fault(int(details["faultCode"]), str(details["faultString"]))
    return _value(tree.find("params/param/value"))


def _read_all(link: socket.socket) -> bytes:
    chunks = []
    while chunk := link.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)


def _argument(value: str | bool) -> str:
    if isinstance(value, bool):
        return f"<boolean>{value:d}</boolean>"
    escaped = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"<string>{escaped}</string>"


def _value(element: ET.Element | None) -> Any:
    if element is None:
        return None
    if not len(element):
        return element.text or ""
    inner = element[0]
    if inner.tag == "struct":
        return {m.findtext("name", ""): _value(m.find("value")) for m in inner}
    if inner.tag == "array":
        return [_value(value) for value in inner.iterfind("data/value")]
    if inner.tag in ("int", "i4", "boolean"):
        return int(inner.text or 0)
    return inner.text or ""
