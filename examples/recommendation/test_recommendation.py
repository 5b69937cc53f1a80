"""Tests of this example. They need no stack: pytest test_recommendation.py"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import inference
import mlflow
import numpy as np
import pandas as pd
import pytest
from factorise import factorise
from movielens import MovieLens, checked, generate_movielens, load_movielens, read_movielens, split

HERE = Path(__file__).resolve().parent
INPUTS = ["user_id", "movie_id"]


@pytest.fixture(scope="session")
def movielens() -> MovieLens:
    return generate_movielens()


def as_served(training: pd.DataFrame, folder: Path, factors: int) -> mlflow.pyfunc.PyFuncModel:
    """Trained, saved and loaded again, as the model server loads it."""
    np.savez(folder / "factors.npz", **factorise(training, factors))
    artifacts = {"factors": str(folder / "factors.npz")}
    mlflow.pyfunc.save_model(folder / "saved", python_model=str(HERE / "model.py"), artifacts=artifacts)
    return mlflow.pyfunc.load_model(str(folder / "saved"))


@pytest.fixture(scope="session")
def model(movielens: MovieLens, tmp_path_factory: pytest.TempPathFactory) -> mlflow.pyfunc.PyFuncModel:
    training, _ = split(movielens.ratings)
    return as_served(training, tmp_path_factory.mktemp("model"), factors=20)


def guess(model: mlflow.pyfunc.PyFuncModel, *pairs: tuple[int, int]) -> list[float]:
    return model.predict(pd.DataFrame(list(pairs), columns=INPUTS))["rating"].tolist()


def test_generated_data_is_like_movielens(movielens: MovieLens) -> None:
    ratings = movielens.ratings
    assert (len(ratings), len(movielens.users), len(movielens.movies)) == (100_000, 943, 1_682)
    assert (ratings["user_id"].nunique(), ratings["movie_id"].nunique()) == (943, 1_682)
    assert ratings["user_id"].value_counts().min() >= 20
    assert 3.4 < ratings["rating"].mean() < 3.7
    assert 1.0 < ratings["rating"].std() < 1.2
    by_movie = ratings["movie_id"].value_counts()
    assert by_movie.head(168).sum() > 40_000  # a tenth of the movies, far more than a tenth of the ratings


def test_generated_data_is_the_same_every_time(movielens: MovieLens) -> None:
    pd.testing.assert_frame_equal(generate_movielens().ratings, movielens.ratings)
    assert not generate_movielens(seed=8).ratings.equals(movielens.ratings)


def test_files_of_movielens_are_read(movielens: MovieLens, tmp_path: Path) -> None:
    write_movielens(movielens, tmp_path, title="Été, L' (1996)")
    read = load_movielens(tmp_path, cache=tmp_path / "unused")
    pd.testing.assert_frame_equal(read.ratings, movielens.ratings)
    pd.testing.assert_frame_equal(read.users, movielens.users)
    assert set(read.movies["title"]) == {"Été, L' (1996)"}
    assert read.origin == "folder"


def test_half_a_dataset_is_refused(movielens: MovieLens, tmp_path: Path) -> None:
    half = MovieLens(movielens.ratings.head(50_000), movielens.movies, movielens.users, "folder")
    write_movielens(half, tmp_path)
    with pytest.raises(ValueError, match="50,000 ratings, 943 users, 1,682 movies"):
        read_movielens(tmp_path, "folder")


@pytest.mark.parametrize(
    ("column", "value", "message"), [("rating", 6, "between 1 and 5"), ("movie_id", 0, "twice")]
)
def test_impossible_ratings_are_refused(movielens: MovieLens, column: str, value: int, message: str) -> None:
    ratings = movielens.ratings.copy()
    ratings.loc[ratings["user_id"] == 1, column] = value
    with pytest.raises(ValueError, match=message):
        checked(MovieLens(ratings, movielens.movies, movielens.users, "folder"))


def test_training_and_held_out_ratings_are_apart(movielens: MovieLens) -> None:
    training, held_out = split(movielens.ratings)
    assert (len(training), len(held_out)) == (80_000, 20_000)
    assert not pd.concat([training, held_out]).duplicated(INPUTS).any()


def test_model_beats_the_mean_and_its_own_biases(
    movielens: MovieLens, model: mlflow.pyfunc.PyFuncModel, tmp_path: Path
) -> None:
    training, held_out = split(movielens.ratings)
    biases_only = as_served(training, tmp_path, factors=0)

    def rmse(guess: pd.Series | float) -> float:
        return float(np.sqrt(((held_out["rating"] - guess) ** 2).mean()))

    of_model, of_biases = (rmse(m.predict(held_out[INPUTS])["rating"]) for m in (model, biases_only))
    assert of_model < 0.99 * of_biases
    assert of_biases < 0.9 * rmse(training["rating"].mean())


def test_unknown_users_and_movies_get_the_averages(model: mlflow.pyfunc.PyFuncModel) -> None:
    learned = model.unwrap_python_model()
    mean, of_user, of_movie = learned.mean, learned.user_bias[41], learned.movie_bias[49]
    assert learned.users[41] == 42
    assert learned.movies[49] == 50
    assert guess(model, (9_999, 9_999)) == [pytest.approx(mean)]
    assert guess(model, (42, 9_999)) == [pytest.approx(mean + of_user)]
    assert guess(model, (9_999, 50)) == [pytest.approx(mean + of_movie)]


def test_ratings_stay_between_1_and_5(movielens: MovieLens, model: mlflow.pyfunc.PyFuncModel) -> None:
    pairs = [(user, movie) for user in range(1, 944, 10) for movie in movielens.movies["movie_id"]]
    ratings = guess(model, *pairs)
    assert min(ratings) >= 1.0
    assert max(ratings) <= 5.0
    assert np.std(ratings) > 0.3


class V2Server(BaseHTTPRequestHandler):
    """Answers with the sum of user_id and movie_id, one a row; 400 for a movie with a negative id."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        columns = {column["name"]: column["data"] for column in body["inputs"]}
        sums = [user + movie for user, movie in zip(columns["user_id"], columns["movie_id"], strict=True)]
        bad = min(columns["movie_id"]) < 0
        answer = {"error": "movie_id: below 0"} if bad else {"outputs": [{"name": "rating", "data": sums}]}
        self.send_response(400 if bad else 200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with HTTPServer(("127.0.0.1", 0), V2Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MATCHA_SERVING_URL", f"http://127.0.0.1:{server.server_port}/")
        yield
        server.shutdown()


@pytest.mark.usefixtures("server")
def test_inference_asks_for_one_rating_a_movie() -> None:
    assert inference.ratings_of(42, [50, 51]) == [92, 93]


@pytest.mark.usefixtures("server")
def test_inference_rates_without_the_files_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inference, "DATA", tmp_path)
    inference.print_rating(user=1, movie=2)
    assert capsys.readouterr().out == 'User 1 would give "movie 2" 3.00 of 5.\n'


@pytest.mark.usefixtures("server")
def test_inference_recommends_the_best_of_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inference, "DATA", tmp_path)
    movies = {"movie_id": [1, 2, 3, 4], "title": ["One", "Two", "Three", "Four"]}
    pd.DataFrame(movies).to_parquet(tmp_path / "movies.parquet")
    pd.DataFrame({"user_id": [42, 7], "movie_id": [4, 3]}).to_parquet(tmp_path / "training.parquet")
    inference.print_recommendations(user=42, count=2)
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]] == ["Three", "Two"]


@pytest.mark.usefixtures("server")
def test_inference_gives_the_servers_reason() -> None:
    with pytest.raises(RuntimeError, match=r"400.*movie_id: below 0"):
        inference.ratings_of(42, [-1])


def test_inference_without_a_server_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATCHA_SERVING_URL", "http://127.0.0.1:9")
    with pytest.raises(RuntimeError, match="matcha status"):
        inference.ratings_of(42, [50])


def write_movielens(data: MovieLens, folder: Path, title: str = "Title") -> None:
    """The three files as GroupLens writes them."""
    data.ratings.to_csv(folder / "u.data", sep="\t", header=False, index=False)
    with (folder / "u.item").open("w", encoding="latin-1") as file:
        for movie_id in data.movies["movie_id"]:
            file.write(f"{movie_id}|{title}|01-Jan-1996||http://example.org|{'|'.join('0' * 19)}\n")
    with (folder / "u.user").open("w", encoding="latin-1") as file:
        for user in data.users.itertuples():
            file.write(f"{user.user_id}|{user.age}|{user.gender}|writer|12345\n")
