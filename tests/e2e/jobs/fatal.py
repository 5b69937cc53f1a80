"""Saves models in folders that end the process that loads them, as a lack of memory would: one fits the
serving environment, one needs its own, and one needs that of `older.py`.
"""

import os

import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema


class Model(mlflow.pyfunc.PythonModel):
    def load_context(self, context):  # type: ignore[no-untyped-def]
        if os.environ.get("MATCHA_MODELS_DIR"):  # not where it is saved
            os._exit(9)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        return model_input["x"]


signature = ModelSignature(Schema([ColSpec("double", "x")]))
for folder, needs in (
    ("saved fatal", ["cloudpickle"]),
    ("saved fatal own", ["scikit-learn==1.7.2", "cloudpickle"]),
    ("saved fatal older", ["scikit-learn==1.7.2", "pandas", "cloudpickle"]),
):
    mlflow.pyfunc.save_model(
        folder,
        python_model=Model(),
        signature=signature,
        pip_requirements=[f"mlflow=={mlflow.__version__}", *needs],
    )
