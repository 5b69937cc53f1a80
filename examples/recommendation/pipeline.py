"""The movie recommender as a ZenML pipeline: load, train, evaluate, register, deploy."""

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import mlflow
import numpy as np
import pandas as pd
from factorise import factorise
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from movielens import load_movielens, split
from zenml import pipeline, step
from zenml.enums import ExecutionMode

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
MODEL = "movie"
CHAMPION = f"models:/{MODEL}@champion"
INPUTS = ["user_id", "movie_id"]
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("long", name) for name in INPUTS]),
    outputs=Schema([ColSpec("double", "rating")]),
)

# `experiment_tracker=True` gives a step the stack's MLflow; all steps of a pipeline run share one MLflow run.
# Nothing is cached: each step reads from, or writes to, a world outside the pipeline.


@step(experiment_tracker=True)
def load(
    folder: str | None,
) -> tuple[
    Annotated[pd.DataFrame, "training"], Annotated[pd.DataFrame, "held_out"], Annotated[pd.DataFrame, "users"]
]:
    """Load MovieLens, split it, and keep what the other steps and `inference.py` need under `data/`."""
    DATA.mkdir(exist_ok=True)
    movielens = load_movielens(Path(folder) if folder else None, cache=DATA / "ml-100k")
    training, held_out = split(movielens.ratings)
    training.to_parquet(DATA / "training.parquet")
    movielens.movies.to_parquet(DATA / "movies.parquet")
    for name in ("training", "movies"):  # for whoever asks the model from another machine
        mlflow.log_artifact(str(DATA / f"{name}.parquet"), "data")
    mlflow.set_tag("data", movielens.origin)
    print(f"Data: {len(training):,} ratings to learn from, {len(held_out):,} held out ({movielens.origin})")
    return training, held_out, movielens.users


@step(experiment_tracker=True)
def train(training: pd.DataFrame, factors: int) -> Annotated[str, "model_uri"]:
    """Learn the factors and log the model together with the file that it learned from.

    The file is what Matcha compares the served traffic with, to tell when it drifts.
    """
    file = str(DATA / "training.parquet")
    if not Path(file).exists():  # a step may run on another machine than the one before
        DATA.mkdir(exist_ok=True)
        training.to_parquet(file)
    dataset = mlflow.data.from_pandas(training, source=file, name="movielens-100k", targets="rating")
    mlflow.log_input(dataset, context="training")
    mlflow.log_param("factors", factors)
    with tempfile.TemporaryDirectory() as folder:
        learned = Path(folder) / "factors.npz"
        np.savez(learned, **factorise(training, factors))
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(HERE / "model.py"),
            artifacts={"factors": str(learned)},
            signature=SIGNATURE,
            input_example=training[INPUTS].head(3),
            pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "numpy", "pandas")],
        ).model_uri


@step(experiment_tracker=True)
def evaluate(
    model_uri: str, training: pd.DataFrame, held_out: pd.DataFrame, users: pd.DataFrame
) -> Annotated[float, "rmse"]:
    """The model's RMSE on ratings that it has not seen, beside what guessing an average would get."""
    truth, guess = held_out["rating"], predict(model_uri, held_out)
    metrics = {"rmse": rmse(truth, guess), **baselines(training, held_out)}
    gender = held_out["user_id"].map(users.set_index("user_id")["gender"])
    for group, rows in truth.groupby(gender):  # is the model worse for some?
        metrics[f"rmse_gender_{group}"] = rmse(rows, guess[rows.index])
    mlflow.log_metrics(metrics)
    for name, value in metrics.items():
        print(f"{name:>18} {value:.3f}")
    return metrics["rmse"]


@step(experiment_tracker=True)
def register(model_uri: str, rmse_of_model: float, held_out: pd.DataFrame) -> Annotated[int, "version"]:
    """Register the model; it becomes `champion` where it beats the present one on the same ratings."""
    new = int(mlflow.register_model(model_uri, MODEL).version)
    registry = mlflow.MlflowClient()
    champion = registry.get_registered_model(MODEL).aliases.get("champion")
    if champion:
        to_beat = rmse(held_out["rating"], predict(CHAMPION, held_out))
        if rmse_of_model >= to_beat:
            print(f"Model: {MODEL} version {new}; version {champion} stays champion (RMSE {to_beat:.3f})")
            return int(champion)
    registry.set_registered_model_alias(MODEL, "champion", str(new))
    print(f"Model: {MODEL} version {new}, the new champion")
    return new


@step
def deploy(champion_version: int) -> Annotated[str, "endpoint"]:
    """Serve the champion, as `matcha deploy models:/movie@champion --name movie` does."""
    import matcha  # noqa: PLC0415 - here, so that the steps before need no Matcha

    endpoint = str(matcha.deploy(CHAMPION, name=MODEL).url)
    print(f"Endpoint: {endpoint} (version {champion_version})")
    return endpoint


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def recommendation(folder: str | None = None, factors: int = 20, serve: bool = True) -> None:
    training, held_out, users = load(folder)
    model_uri = train(training, factors)
    rmse_of_model = evaluate(model_uri, training, held_out, users)
    champion_version = register(model_uri, rmse_of_model, held_out)
    if serve:
        deploy(champion_version)


def predict(model_uri: str, ratings: pd.DataFrame) -> pd.Series:
    return mlflow.pyfunc.load_model(model_uri).predict(ratings[INPUTS])["rating"]


def rmse(truth: pd.Series, guess: pd.Series | float) -> float:
    return float(np.sqrt(((truth - guess) ** 2).mean()))


def baselines(training: pd.DataFrame, held_out: pd.DataFrame) -> dict[str, float]:
    """RMSE of three guesses that need no model: the mean of all ratings, the user's, the movie's."""
    truth, mean = held_out["rating"], training["rating"].mean()
    found = {"rmse_of_mean": rmse(truth, mean)}
    for column in INPUTS:
        means = training.groupby(column)["rating"].mean()
        guess = held_out[column].map(means).fillna(mean)
        found[f"rmse_of_{column.removesuffix('_id')}_mean"] = rmse(truth, guess)
    return found
