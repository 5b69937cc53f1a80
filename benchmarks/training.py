"""Runs in the serving environment: `training.py FOLDER`. Registers the model `bench`, saves it to FOLDER."""

from __future__ import annotations

import sys

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression

COLUMNS = [f"x{number}" for number in range(20)]


def main(folder: str) -> None:
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(2000, len(COLUMNS))), columns=COLUMNS)
    y = (x["x0"] + x["x1"] > 0).astype(int)
    model = LogisticRegression().fit(x, y)
    given = {"signature": infer_signature(x, model.predict(x)), "pip_requirements": ["scikit-learn"]}
    mlflow.sklearn.save_model(model, folder, **given)
    with mlflow.start_run():
        mlflow.sklearn.log_model(model, name="model", registered_model_name="bench", **given)


if __name__ == "__main__":
    main(sys.argv[1])
