"""Clients that send one request after another and measure each answer."""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Burst:
    """`p99` is in milliseconds."""

    per_second: float
    p99: float


def burst(url: str, body: bytes, *, clients: int, seconds: float) -> Burst:
    """Load `url` for that long. Raises RuntimeError for any answer but 200."""
    end = time.perf_counter() + seconds
    found: list[list[float]] = [[] for _ in range(clients)]
    failures: list[str] = []
    threads = [threading.Thread(target=_client, args=(url, body, end, mine, failures)) for mine in found]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if failures:
        raise RuntimeError(failures[0])
    times = sorted(one for mine in found for one in mine)
    return Burst(len(times) / took, 1000 * times[int(0.99 * (len(times) - 1))])


def _client(url: str, body: bytes, end: float, times: list[float], failures: list[str]) -> None:
    parts = urlsplit(url)
    link = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=30)
    headers = {"Content-Type": "application/json"}
    try:
        while (began := time.perf_counter()) < end:
            link.request("POST", parts.path, body, headers)
            answer = link.getresponse()
            text = answer.read()
            times.append(time.perf_counter() - began)
            if answer.status != 200:
                raise RuntimeError(f"{url}: {answer.status} {text[:300]!r}")
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        failures.append(repr(error))
    finally:
        link.close()
