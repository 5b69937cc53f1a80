"""Asks `credit` on one channel until a file is there: `serving_grpc_steady.py ADDRESS,ADDRESS FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import grpc
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

NAMES = ("age", "income", "debt", "years")


def request() -> pb.ModelInferRequest:
    inputs = [
        pb.ModelInferRequest.InferInputTensor(
            name=name, datatype="FP64", shape=[1], contents=pb.InferTensorContents(fp64_contents=[1.0])
        )
        for name in NAMES
    ]
    return pb.ModelInferRequest(model_name="credit", inputs=inputs)


def main(addresses: str, over: Path) -> None:
    answers, failures = 0, []
    with grpc.insecure_channel(f"ipv4:{addresses}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        while not over.exists():
            try:
                stub.ModelInfer(request(), timeout=20)
                answers += 1
            except grpc.RpcError as error:
                failures.append(f"{error.code()}: {error.details()}")
    print(json.dumps({"answers": answers, "failures": failures}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
