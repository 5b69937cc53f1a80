"""Asking servers on this machine whether they are well."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

from matcha import plainhttp
from matcha.host.ports import HOST


def ask(url: str, timeout: float) -> str:
    """GET `url`; empty when it answers 2xx within `timeout` seconds, otherwise what it did instead."""
    try:
        status = plainhttp.status(url, timeout)
    except ConnectionRefusedError:
        return "nothing listens"
    except TimeoutError:
        return f"no answer in {timeout:g} s"
    except (OSError, ValueError) as error:
        return f"no HTTP answer ({error})"
    return "" if 200 <= status < 300 else f"answers {status}"


def says(port: int, timeout: float) -> str:
    """Empty when what listens on this loopback port, HTTP or not, says anything to a request within `timeout`
    seconds, otherwise what it did instead.
    """
    try:
        with socket.create_connection((HOST, port), timeout) as link:
            link.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return "" if link.recv(1) else "it closes the connection"
    except ConnectionRefusedError:
        return "nothing listens"
    except TimeoutError:
        return f"no answer in {timeout:g} s"
    except OSError as error:
        return error.strerror or str(error)


def ask_all(urls: Mapping[str, str], timeout: float) -> dict[str, str]:
    """`ask` of each, side by side."""
    answers: dict[str, str] = {}

    def one(name: str, url: str) -> None:
        answers[name] = ask(url, timeout)

    threads = [threading.Thread(target=one, args=item, daemon=True) for item in urls.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout + 1)
    return {name: answers.get(name, f"no answer in {timeout:g} s") for name in urls}


def port_of(url: str) -> int:
    return urlsplit(url).port or 80
