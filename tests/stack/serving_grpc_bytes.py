"""Bytes over gRPC: `serving_grpc_bytes.py HOST:PORT PREFIX`, run in the serving environment.

PREFIX stands before the names of the models. Prints what happened as JSON.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def ask(client: triton.InferenceServerClient, model: str, value: bytes) -> str:
    given = triton.InferInput("x", [1], "BYTES")
    given.set_data_from_numpy(np.array([value], dtype=object))
    try:
        return client.infer(model, [given]).as_numpy("output-1").ravel()[0].decode()
    except InferenceServerException as error:
        return f"{error.status()} {error.message()}"


def main(address: str, prefix: str) -> dict[str, str]:
    client = triton.InferenceServerClient(address)
    return {
        f"{model} {value!r}": ask(client, f"{prefix}{model}", value)
        for model in ("binary", "str-alone", "string")
        for value in (b"text", b"\xff\x00")
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
