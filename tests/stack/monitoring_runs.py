"""Runs that each logged their training data in another way. Runs in MLflow's environment: FOLDER SET [PORT].

Prints {name: run id}. The set `references` shows everything a run can get wrong; `windows` is what the
monitoring service is tried on.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.data import from_numpy, from_pandas
from mlflow.models import infer_signature

ROWS = 12_000
RUNS: dict[str, str] = {}


class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: pd.DataFrame, params=None):  # type: ignore[no-untyped-def]
        return model_input.iloc[:, 0]


def run(
    name: str, *datasets: tuple[mlflow.data.dataset.Dataset, str], inputs: pd.DataFrame | None = None
) -> None:
    with mlflow.start_run() as started:
        for number, (dataset, context) in enumerate(datasets):
            dataset._name = f"{name}-{number}"  # MLflow keeps one source for each name and digest
            mlflow.log_input(dataset, context=context)
        if inputs is not None:
            signature = infer_signature(inputs, pd.Series([0.5]))
            mlflow.pyfunc.log_model(
                name="model", python_model=Model(), signature=signature, pip_requirements=["mlflow"]
            )
    RUNS[name] = started.info.run_id


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    columns = {"a": rng.normal(size=ROWS), "b": rng.choice(list("xyz"), ROWS), "n": rng.integers(0, 99, ROWS)}
    return pd.DataFrame({**columns, "other": rng.normal(size=ROWS), "target": rng.normal(size=ROWS)})


def references(folder: Path) -> None:
    data = frame()
    writers: dict[str, Callable[[Path], None]] = {
        "csv": lambda f: data.to_csv(f, index=False),
        "csv.gz": lambda f: data.to_csv(f, index=False),
        "tsv": lambda f: data.to_csv(f, index=False, sep="\t"),
        "parquet": data.to_parquet,
        "jsonl": lambda f: data.to_json(f, orient="records", lines=True),
    }
    for ending, write in writers.items():
        file = folder / f"data.{ending}"
        write(file)
        read = data if ending == "parquet" else _read(file)
        run(ending, (from_pandas(read, source=str(file)), "training"))
    _edges(folder, data)


def _read(file: Path) -> pd.DataFrame:
    if "json" in file.name:
        return pd.read_json(file, lines=True)
    return pd.read_csv(file, sep="\t" if "tsv" in file.name else ",")


def _edges(folder: Path, data: pd.DataFrame) -> None:
    csv = str(folder / "data.csv")
    for name in ("gone", "edited", "forced"):
        data.to_csv(folder / f"{name}.csv", index=False)
        run(
            name,
            (
                from_pandas(pd.read_csv(folder / f"{name}.csv"), source=str(folder / f"{name}.csv")),
                "training",
            ),
        )
    (folder / "weights.bin").write_bytes(b"\0")
    (folder / "torn.parquet").write_bytes(b"PAR1 and no more")
    run("nothing")
    run("signature", (from_pandas(data, source=csv), "training"), inputs=data[["a", "b", "n"]])
    run(
        "foreign", (from_pandas(data, source=csv), "training"), inputs=data[["a"]].rename(columns={"a": "zz"})
    )
    run("part", (from_pandas(data.head(900), source=csv), "training"))
    run("relative", (from_pandas(data, source="data.parquet"), "training"))
    run("memory", (from_pandas(data), "training"))
    run("numpy", (from_numpy(data[["a"]].to_numpy(), source=csv), "training"))
    run("binary", (from_pandas(data, source=str(folder / "weights.bin")), "training"))
    run("torn", (from_pandas(data, source=str(folder / "torn.parquet")), "training"))
    run(
        "http",
        (
            from_pandas(_read(folder / "data.csv"), source=f"http://127.0.0.1:{sys.argv[3]}/data.csv"),
            "training",
        ),
    )
    run("dead", (from_pandas(data, source="http://127.0.0.1:9/data.csv"), "training"))
    training, test = (
        from_pandas(data, source=str(folder / "data.parquet")),
        from_pandas(data.head(50), source=csv),
    )
    run("both", (test, "evaluation"), (training, "training"))
    run("only-test", (from_pandas(data.head(9)), "training"), (test, "evaluation"))


def windows(folder: Path) -> None:
    rng = np.random.default_rng(2)
    wide = pd.DataFrame({f"x{j}": rng.normal(size=10_000) for j in range(20)})
    mixed = pd.DataFrame(
        {"age": rng.normal(40, 10, 5000), "city": rng.choice(["Kyoto", "Uji", "Nara"], 5000)}
    )
    evil = pd.DataFrame(
        {"<script>alert(1)</script>": rng.normal(size=2000), "</script><b>": rng.choice(["<i>", "b"], 2000)}
    )
    for name, data in {"wide": wide, "mixed": mixed, "evil": evil}.items():
        file = folder / f"{name}.parquet"
        data.to_parquet(file)
        run(name, (from_pandas(data, source=str(file)), "training"))
    run("bare")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    mlflow.set_experiment("monitored")
    {"references": references, "windows": windows}[sys.argv[2]](Path(sys.argv[1]))
    print(json.dumps(RUNS))
