"""The experiment tracker and model registry: MLflow."""

from matcha.components.mlflow.component import MLflow

COMPONENT = MLflow

__all__ = ["COMPONENT", "MLflow"]
