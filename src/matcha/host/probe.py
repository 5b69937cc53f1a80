"""Asking servers on this machine whether they are well."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

from matcha import plainhttp


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
