"""A request as code that can be pasted."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any


def curl_call(url: str, body: Mapping[str, Any], *, bearer: str = "") -> str:
    """`bearer`: the shell's variable that holds a token, which is kept from the list of processes."""
    call = f"curl -s {url} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
    return f"printf 'Authorization: Bearer %s' \"${bearer}\" | {call} -H @-" if bearer else call


def python_call(url: str, body: Mapping[str, Any]) -> str:
    """Standard library only, so that it runs anywhere it is pasted."""
    rest = "".join(f"    {key!r}: {value!r},\n" for key, value in body.items() if key != "inputs")
    inputs = "".join(f"        {column!r},\n" for column in body["inputs"])
    return (
        "import json, urllib.request\n\n"
        f"body = {{\n{rest}    'inputs': [\n{inputs}    ],\n}}\n"
        f'request = urllib.request.Request("{url}", json.dumps(body).encode(),\n'
        '                                 {"Content-Type": "application/json"})\n'
        'print(json.load(urllib.request.urlopen(request))["outputs"][0]["data"])'
    )
