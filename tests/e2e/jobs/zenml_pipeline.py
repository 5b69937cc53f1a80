"""What a user's own ZenML pipeline may look like: nothing of Matcha. The last line it prints is JSON."""

import json

import mlflow
from zenml import pipeline, step
from zenml.client import Client


@step
def load() -> int:
    return 3


@step(experiment_tracker=Client().active_stack.experiment_tracker.name)
def train(x: int) -> float:
    mlflow.log_metric("from_zenml", float(x))
    return 2.0 * x


@pipeline(enable_cache=False)
def two_steps() -> None:
    train(load())


if __name__ == "__main__":
    run = two_steps()
    result = Client().get_pipeline_run(run.id).steps["train"].output.load()
    stack = Client().active_stack
    components = {str(kind.value): component.flavor for kind, component in stack.components.items()}
    print(json.dumps({"status": run.status.value, "result": result, "components": components}))
