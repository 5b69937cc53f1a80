"""Registers `older`, and saves it in a folder: it wants another scikit-learn than the serving environment's,
and says which it got.
"""

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema


class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: pd.DataFrame, params=None):  # type: ignore[no-untyped-def]
        import sklearn

        return pd.Series([sklearn.__version__] * len(model_input))


signature = ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("string")]))
needs = [f"mlflow=={mlflow.__version__}", "scikit-learn==1.7.2", "pandas", "cloudpickle"]
made = {"python_model": Model(), "signature": signature, "pip_requirements": needs}
with mlflow.start_run():
    mlflow.pyfunc.log_model(name="model", registered_model_name="older", **made)
mlflow.pyfunc.save_model("saved older", **made)
