"""Runs whose training data is not as it was: changed since, gone, and never written. Prints their ids."""

import json
import time
from pathlib import Path

import mlflow
import pandas as pd
from sklearn.linear_model import LinearRegression

data = pd.DataFrame({"a": range(500), "b": range(500, 1000)})
runs = {}
for name in ("changed", "gone", "memory"):
    file = f"{name}.csv"
    data.to_csv(file, index=False)
    with mlflow.start_run() as run:
        source = None if name == "memory" else file
        mlflow.log_input(mlflow.data.from_pandas(data, source=source, name=name), context="training")
        model = LinearRegression().fit(data[["a"]], data["b"])
        signature = mlflow.models.infer_signature(data[["a"]], model.predict(data[["a"]]))
        mlflow.sklearn.log_model(model, name="model", signature=signature)
    runs[name] = run.info.run_id
time.sleep(0.1)
(data * 7).to_csv("changed.csv", index=False)
Path("gone.csv").unlink()
print(json.dumps(runs))
