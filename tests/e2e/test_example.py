"""The recommendation example on a real stack, as its README tells a user to run it.

The tests build on each other's models and stand in the README's order.
"""

from __future__ import annotations

import csv
import json
import re
import urllib.request

import pytest

from support.matcha import Matcha

OFFLINE = "http://127.0.0.1:9"  # a proxy that refuses, so that the run cannot depend on GroupLens


class Shell:
    """Runs `matcha ...` in the example's folder."""

    def __init__(self, stack: Matcha) -> None:
        self.stack = stack
        self.folder = stack.project
        self.proxy = OFFLINE

    def __call__(self, *arguments: str, code: int = 0) -> str:
        env = {"https_proxy": self.proxy, "no_proxy": "127.0.0.1,localhost"}
        return self.stack(*arguments, code=code, timeout=600, env=env).stdout

    def python(self, *arguments: str, code: int = 0) -> str:
        return self("run", "--", "python", *arguments, code=code)


@pytest.fixture(scope="module")
def matcha(stack: Matcha) -> Shell:
    # Packages may come through a proxy: only the runs of the example itself must do without GroupLens.
    stack("run", "--", "true")
    return Shell(stack)


@pytest.fixture(scope="module")
def recommender(matcha: Shell) -> str:
    """What the first `python run.py` prints."""
    return matcha.python("run.py")


def figures(output: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^ *(rmse\w*) ([\d.]+)$", output, re.MULTILINE)}


def test_the_run_says_where_its_data_came_from(recommender: str) -> None:
    assert "GENERATED" in recommender
    assert "80,000 ratings to learn from, 20,000 held out (generated)" in recommender


def test_the_run_prints_figures_version_endpoint_and_next_command(matcha: Shell, recommender: str) -> None:
    rmse = figures(recommender)
    assert rmse["rmse"] < 0.95 * min(
        rmse["rmse_of_mean"], rmse["rmse_of_user_mean"], rmse["rmse_of_movie_mean"]
    )
    assert "Model: movie version 1, the new champion" in recommender
    base = matcha("get", "model-deployer", "base-url").strip()
    assert f"Endpoint: {base}/v2/models/movie/infer (version 1)" in recommender
    assert "Next: matcha run -- python inference.py --user 42 --movie 50" in recommender


@pytest.mark.usefixtures("recommender")
def test_inference_answers_for_known_and_new(matcha: Shell) -> None:
    for user, movie in ((42, 50), (9_999, 50), (42, 9_999)):
        said = matcha.python("inference.py", "--user", str(user), "--movie", str(movie))
        found = re.search(r'User (\d+) would give ".+" ([\d.]+) of 5\.', said)
        assert found, said
        assert int(found[1]) == user
        assert 1.0 <= float(found[2]) <= 5.0


@pytest.mark.usefixtures("recommender")
def test_inference_recommends_in_order(matcha: Shell) -> None:
    lines = matcha.python("inference.py", "--user", "42", "--top", "10").splitlines()[-10:]
    ratings = [float(line.split()[0]) for line in lines]
    assert ratings == sorted(ratings, reverse=True)


@pytest.mark.usefixtures("recommender")
def test_predict_agrees_with_inference_and_plain_http(matcha: Shell) -> None:
    predictions = json.loads(matcha("predict", "movie", "--input", "requests.json", "--output", "json"))
    asked = json.loads((matcha.folder / "requests.json").read_text())
    assert predictions["predictions"] == pytest.approx(over_http(matcha, asked))
    first = matcha.python("inference.py", "--user", "42", "--movie", "50")
    assert f"{predictions['predictions'][0]:.2f} of 5" in first
    assert predictions["version"] == "1"


def over_http(matcha: Shell, rows: list[dict[str, int]]) -> list[float]:
    """A V2 request with nothing but the standard library."""
    base = matcha("get", "model-deployer", "base-url").strip()
    inputs = [
        {"name": name, "datatype": "INT64", "shape": [len(rows), 1], "data": [row[name] for row in rows]}
        for name in ("user_id", "movie_id")
    ]
    body = json.dumps({"parameters": {"content_type": "pd"}, "inputs": inputs}).encode()
    request = urllib.request.Request(
        f"{base}/v2/models/movie/infer", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        [output] = json.load(answer)["outputs"]
    assert output["name"] == "rating"
    return list(output["data"])


@pytest.mark.usefixtures("recommender")
def test_drift_is_measured_against_the_training_data(matcha: Shell) -> None:
    """Rows as the training data has them do not drift; a flood of one user's does."""
    rows = matcha.folder / "rows.csv"
    matcha("monitor", "movie")  # takes in what other tests asked, so that the next window holds only ours
    matcha.python("-c", SAMPLE)
    matcha("predict", "movie", "--input", str(rows))
    matcha("monitor", "movie", "--check")
    with rows.open("w", newline="") as file:
        csv.writer(file).writerows([["user_id", "movie_id"], *([42, movie] for movie in range(1, 1683))])
    for _ in range(3):
        matcha("predict", "movie", "--input", str(rows))
    matcha("monitor", "movie", "--check", code=1)


SAMPLE = (
    "import pandas as pd; d = pd.read_parquet('data/training.parquet')[['user_id', 'movie_id']];"
    "d.sample(1000, random_state=1).to_csv('rows.csv', index=False)"
)


@pytest.mark.usefixtures("recommender")
def test_the_same_again_leaves_the_champion(matcha: Shell) -> None:
    said = matcha.python("run.py", "--no-deploy")
    assert "Model: movie version 2; version 1 stays champion" in said
    assert "Not deployed (--no-deploy)" in said
    [movie] = [m for m in json.loads(matcha("models", "--output", "json")) if m["name"] == "movie"]
    assert movie["aliases"] == {"champion": "1"}
    assert sorted(movie["versions"]) == ["1", "2"]


@pytest.mark.usefixtures("recommender")
def test_a_worse_model_does_not_become_champion(matcha: Shell) -> None:
    said = matcha.python("run.py", "--factors", "0")
    assert "version 1 stays champion" in said
    assert "(version 1)" in said


def test_a_folder_without_movielens_is_bad_usage(matcha: Shell) -> None:
    matcha.python("run.py", "--data", str(matcha.folder), code=2)


def test_its_own_tests_pass(matcha: Shell) -> None:
    """With pytest in its requirements, as its README says."""
    assert "pytest" in (matcha.folder / "requirements.txt").read_text()
    said = matcha.python("-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert re.search(r"^\d+ passed", said, re.MULTILINE), said
