"""Makes the models that `test_serving.py` serves: run in the serving environment, `serving_models.py FOLDER`.

Each folder below FOLDER is a saved MLflow model; `registry.db` holds the registered model `credit`. There is
one `kind-NAME` for each of the signatures in FOLDER/kinds.json, which says what it got.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
from sklearn.linear_model import LinearRegression, LogisticRegression

COLUMNS = ["age", "income", "debt", "years"]
MIXED = [
    ColSpec("long", "count"),
    ColSpec("double", "score"),
    ColSpec("string", "city"),
    ColSpec("boolean", "active"),
    ColSpec("datetime", "seen", required=False),
    ColSpec("string", "note", required=False),
    ColSpec("integer", "small"),
    ColSpec("float", "ratio"),
]


class Function(mlflow.pyfunc.PythonModel):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def load_context(self, context):
        if self.kind == "endless":
            time.sleep(3600)
        if self.kind == "broken":
            raise RuntimeError("the weights are gone, Authorization: Bearer abc.def")

    def predict(self, context, model_input, params=None):
        return getattr(self, f"_{self.kind}")(model_input, params or {})

    def _mixed(self, frame, params):
        return frame["count"] * 2 + frame["score"] + len(frame.columns)

    def _fail(self, frame, params):
        raise KeyError("no such thing")

    def _slow(self, frame, params):
        """Makes `started` in the folder of the test; ends with its seconds or when `go` is there."""
        import os
        import time
        from pathlib import Path

        end, folder = time.monotonic() + float(frame["seconds"].iloc[0]), Path(os.environ["SLOW_FOLDER"])
        (folder / "started").touch()
        while time.monotonic() < end and not (folder / "go").exists():
            time.sleep(0.02)
        return frame["seconds"]

    def _params(self, frame, params):
        return frame["x"] * params["factor"]

    def _rows(self, frame, params):
        return [float(len(frame))] * len(frame)

    def _texts(self, frame, params):
        return [f"row {x}" for x in frame["x"]]

    def _times(self, frame, params):
        return [str(x) for x in frame["at"]]

    def _frame(self, frame, params):
        return pd.DataFrame({"x": frame["x"], "label": "a", "at": pd.Timestamp("2026-01-02")})

    def _holes(self, frame, params):
        return np.array([np.nan, 1.0])

    def _got(self, value, params):
        """What it got, in words, row by row."""
        if isinstance(value, pd.DataFrame):
            return ["; ".join(f"{k}={v!r}" for k, v in row.items()) for row in value.to_dict("records")]
        if isinstance(value, dict):
            parts = [[f"{k}: {text}" for text in self._got(v, params)] for k, v in value.items()]
            return ["; ".join(row) for row in zip(*parts, strict=True)]
        return [f"{value.dtype} {row!r}" for row in value.tolist()]

    def _two(self, tensors, params):
        return tensors["left"].sum(axis=1) + tensors["right"]


def data() -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(200, 4)), columns=COLUMNS)
    return x, (x["age"] + x["debt"] > 0).astype(int).to_numpy()


def function(folder: Path, kind: str, signature: ModelSignature | None) -> None:
    mlflow.pyfunc.save_model(
        folder / kind, python_model=Function(kind), signature=signature, pip_requirements=["mlflow"]
    )


def single(name: str) -> ModelSignature:
    return ModelSignature(Schema([ColSpec("double", name)]))


def saved(folder: Path) -> None:
    x, y = data()
    fitted = LogisticRegression().fit(x.to_numpy(), y)
    keep = {"pip_requirements": ["scikit-learn"]}
    mlflow.sklearn.save_model(
        fitted,
        folder / "tensor",
        signature=infer_signature(x.to_numpy(), fitted.predict(x.to_numpy())),
        **keep,
    )
    mlflow.sklearn.save_model(fitted, folder / "unsigned", **keep)
    function(folder, "mixed", ModelSignature(Schema(MIXED)))
    for kind, name in (
        ("fail", "x"),
        ("slow", "seconds"),
        ("texts", "x"),
        ("frame", "x"),
        ("holes", "x"),
        ("rows", "x"),
    ):
        function(folder, kind, single(name))
    function(folder, "times", ModelSignature(Schema([ColSpec("datetime", "at", required=False)])))
    function(folder, "broken", single("x"))
    function(folder, "endless", single("x"))
    factor = ParamSchema([ParamSpec("factor", "double", 2.0)])
    function(folder, "params", ModelSignature(Schema([ColSpec("double", "x")]), params=factor))
    left, right = (
        TensorSpec(np.dtype("float32"), (-1, 2), "left"),
        TensorSpec(np.dtype("int64"), (-1,), "right"),
    )
    function(folder, "two", ModelSignature(Schema([left, right])))
    with_code(folder)
    function(folder, "got", None)
    for name, inputs in json.loads((folder / "kinds.json").read_text()).items():
        shutil.copytree(folder / "got", folder / f"kind-{name}")
        if inputs:
            signature = ModelSignature(Schema.from_json(json.dumps(inputs)))
            mlflow.models.set_signature(str(folder / f"kind-{name}"), signature)


def with_code(folder: Path) -> None:
    """Two versions of a model whose own module has one name and two contents."""
    for version in ("1", "2"):
        module = folder / f"src{version}" / "helper_of_mine.py"
        module.parent.mkdir()
        module.write_text(f"def answer(frame):\n    return [{version}.0] * len(frame)\n")
        main = folder / f"src{version}" / "loader_of_mine.py"
        main.write_text(
            "import helper_of_mine\n\n\nclass M:\n    def predict(self, frame, params=None):\n"
            "        return helper_of_mine.answer(frame)\n\n\ndef _load_pyfunc(path):\n    return M()\n"
        )
        mlflow.pyfunc.save_model(
            folder / f"code{version}",
            loader_module="loader_of_mine",
            code_paths=[str(module), str(main)],
            signature=single("x"),
            pip_requirements=["mlflow"],
        )


def registered(folder: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'registry.db'}")
    mlflow.create_experiment("serving", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment("serving")
    x, y = data()
    for version in range(3):
        fitted = LinearRegression().fit(x, y * version)
        with mlflow.start_run():
            mlflow.sklearn.log_model(
                fitted,
                name="model",
                signature=infer_signature(x, fitted.predict(x)),
                pip_requirements=["scikit-learn"],
                registered_model_name="credit",
            )


if __name__ == "__main__":
    where = Path(sys.argv[1])
    saved(where)
    registered(where)
