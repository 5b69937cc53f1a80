"""The stock gRPC client: `serving_grpc.py HOST:PORT`, run in the serving environment.

Prints what happened as JSON.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def of(name: str, values: object, datatype: str) -> triton.InferInput:
    array = np.array(values)
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def refused(call: object) -> str:
    try:
        call()
    except InferenceServerException as error:
        return f"{error.status()} {error.message()}"
    return "accepted"


def main(address: str) -> dict[str, object]:
    client = triton.InferenceServerClient(address)
    columns = [of(n, [[1.0], [2.0]], "FP64") for n in ("age", "income", "debt", "years")]
    credit = client.infer("credit", columns, request_id="mine")
    plain = client.infer("credit", columns)
    texts = client.infer("texts", [of("x", [1.0], "FP64")])
    holes = client.infer("holes", [of("x", [1.0, 2.0], "FP64")])
    return {
        "live": client.is_server_live(),
        "ready": client.is_model_ready("credit"),
        "id": credit.get_response().id,
        "given_id": bool(plain.get_response().id),
        "version": credit.get_response().model_version,
        "shape": list(credit.as_numpy("output-1").shape),
        "texts": [t.decode() for t in texts.as_numpy("output-1").ravel()],
        "holes": [bool(np.isnan(v)) for v in holes.as_numpy("output-1").ravel()],
        "missing": refused(lambda: client.infer("credit", columns[:3])),
        "wrong_type": refused(lambda: client.infer("texts", [of("x", [1], "INT64")])),
        "unknown_model": refused(lambda: client.infer("nothing", columns)),
        "fails": refused(lambda: client.infer("fail", [of("x", [1.0], "FP64")])),
        "large": refused(lambda: client.infer("texts", [of("x", [0.0] * 200_000, "FP64")])),
        "load": refused(lambda: client.load_model("credit")),
        "unload": refused(lambda: client.unload_model("credit")),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
