"""What a user's own training script may look like: MLflow alone, nothing of Matcha.

Registers `credit` versions 1 and 2, which answer 2 * income + age and 1000 more, and `watched`, whose
columns have markup in their names; saves a model in a folder. The last line it prints is JSON.
"""

import json
import sys

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

rng = np.random.default_rng(7)
data = pd.DataFrame({"income": rng.normal(50, 10, 4000), "age": rng.integers(18, 80, 4000)})


def train(name: str, frame: pd.DataFrame, offset: float) -> str:
    target = 2 * frame.iloc[:, 0] + frame.iloc[:, 1] + offset
    file = f"{name} {offset:g}.csv"
    frame.assign(target=target).to_csv(file, index=False)
    with mlflow.start_run() as run:
        dataset = mlflow.data.from_pandas(frame.assign(target=target), source=file, targets="target")
        mlflow.log_input(dataset, context="training")
        model = LinearRegression().fit(frame, target)
        signature = infer_signature(frame, model.predict(frame))
        mlflow.sklearn.log_model(model, name="model", signature=signature, registered_model_name=name)
        mlflow.log_metric("rmse", float(np.sqrt(np.mean((model.predict(frame) - target) ** 2))))
        mlflow.sklearn.save_model(model, f"saved {name} {offset:g}", signature=signature)
    return str(run.info.run_id)


runs = [train("credit", data, 0.0), train("credit", data, 1000.0)]
train("watched", data.rename(columns={"age": "<i>age</i>"}), 0.0)
mlflow.MlflowClient().set_registered_model_alias("credit", "champion", "1")
print(json.dumps({"runs": runs, "argv": sys.argv[1:]}))
