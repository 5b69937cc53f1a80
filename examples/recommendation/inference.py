"""Ask the served model what a user would make of a movie, or which movies to recommend.

matcha run -- python inference.py --user 42 --movie 50
matcha run -- python inference.py --user 42 --top 10

This is all that an application does: one HTTP request in the Open Inference Protocol (V2).
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pandas as pd

MODEL = "movie"
HERE = Path(__file__).resolve().parent
DATA = HERE / "data"  # written by run.py


def main() -> None:
    options = arguments()
    try:
        if options.movie is not None:
            print_rating(options.user, options.movie)
        else:
            print_recommendations(options.user, options.top)
    except RuntimeError as problem:
        sys.exit(str(problem))


def print_rating(user: int, movie: int) -> None:
    [rating] = ratings_of(user, [movie])
    known = titles() if (DATA / "movies.parquet").exists() else {}
    title = known.get(movie, f"movie {movie}")
    print(f'User {user} would give "{title}" {rating:.2f} of 5.')


def print_recommendations(user: int, count: int) -> None:
    title = titles()
    unseen = title.index.difference(rated_by(user)).tolist()
    best = pd.Series(ratings_of(user, unseen), index=unseen).nlargest(count)
    print(f"For user {user}, the best of {len(unseen):,} movies not rated yet:")
    for movie, rating in best.items():
        print(f"{rating:6.2f}  {title[movie]}")


def ratings_of(user: int, movies: list[int]) -> list[float]:
    """The model's ratings, one a movie. Raises RuntimeError with the server's reason."""
    url = f"{base_url()}/v2/models/{MODEL}/infer"
    body = v2_request({"user_id": [user] * len(movies), "movie_id": movies})
    try:
        # trust_env: a proxy that is set for the internet has no business with a local server
        answer = httpx.post(url, json=body, timeout=30, trust_env=False)
    except httpx.HTTPError as error:
        raise RuntimeError(f"{url} does not answer ({error}). Next: matcha status") from error
    if answer.is_error:
        raise RuntimeError(f"{url} answered {answer.status_code}: {answer.text}")
    [output] = answer.json()["outputs"]
    return list(output["data"])


def v2_request(columns: dict[str, list[int]]) -> dict[str, Any]:
    """One input a column; content type `pd` tells the server to make a table of them."""
    inputs = [
        {"name": name, "datatype": "INT64", "shape": [len(values), 1], "data": values}
        for name, values in columns.items()
    ]
    return {"parameters": {"content_type": "pd"}, "inputs": inputs}


def base_url() -> str:
    """Where the stack serves models: $MATCHA_SERVING_URL, otherwise what Matcha says."""
    if url := os.environ.get("MATCHA_SERVING_URL"):
        return url.rstrip("/")
    if not shutil.which("matcha"):
        raise RuntimeError("matcha is not on PATH; set MATCHA_SERVING_URL instead.")
    command = ["matcha", "get", "model-deployer", "base-url"]
    answer = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=60, check=False)
    if answer.returncode:
        raise RuntimeError(answer.stderr.strip())
    return answer.stdout.strip().rstrip("/")


def titles() -> "pd.Series[str]":
    """Titles by movie id."""
    return table("movies").set_index("movie_id")["title"]


def rated_by(user: int) -> "pd.Series[int]":
    """Ids of the movies whose rating by this user the model has learned from."""
    training = table("training")
    return training.loc[training["user_id"] == user, "movie_id"]


def table(name: str) -> pd.DataFrame:
    file = DATA / f"{name}.parquet"
    return pd.read_parquet(file if file.exists() else fetched(file))


def fetched(file: Path) -> str:
    """As the champion's own run logged it: that may have been on another machine."""
    missing = RuntimeError(f"There is no {file}. Train first: matcha run -- python run.py")
    if "MLFLOW_TRACKING_URI" not in os.environ:
        raise missing
    import mlflow  # noqa: PLC0415 - takes seconds

    try:
        champion = mlflow.MlflowClient().get_model_version_by_alias(MODEL, "champion")
        return str(
            mlflow.artifacts.download_artifacts(run_id=champion.run_id, artifact_path=f"data/{file.name}")
        )
    except mlflow.MlflowException as error:
        raise missing from error


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ask the served movie recommender.")
    parser.add_argument("--user", type=int, required=True, help="a user's id (1 to 943, others are new)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--movie", type=int, help="how would the user rate this movie? (1 to 1682)")
    what.add_argument("--top", type=int, metavar="N", help="the N movies to recommend")
    return parser.parse_args()


if __name__ == "__main__":
    main()
