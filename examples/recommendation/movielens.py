"""MovieLens 100k: 100,000 ratings (1 to 5) of 1,682 movies by 943 users.

Three ways to it, in this order: a folder that you have, a download, and a generator that makes data of the
same form where neither is at hand.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from download import FILES, download

RATINGS, USERS, MOVIES = 100_000, 943, 1_682


@dataclass(frozen=True)
class MovieLens:
    """The dataset as three tables.

    ratings: user_id, movie_id, rating, timestamp; movies: movie_id, title; users: user_id, age, gender.
    `origin` is `folder`, `download` or `generated`.
    """

    ratings: pd.DataFrame
    movies: pd.DataFrame
    users: pd.DataFrame
    origin: str


def load_movielens(folder: Path | None, cache: Path) -> MovieLens:
    """From `folder` where given, else downloaded to `cache` (once), else generated; says which."""
    if folder is not None:
        return read_movielens(folder, "folder")
    try:
        if not all((cache / name).exists() for name in FILES):
            download(cache)
        return read_movielens(cache, "download")
    except (OSError, ValueError) as error:
        print(f"MovieLens could not be downloaded ({error}).")
        print("Going on with GENERATED ratings of the same form. For the real ones: --data FOLDER.")
        return generate_movielens()


def read_movielens(folder: Path, origin: str) -> MovieLens:
    """Read `u.data`, `u.item` and `u.user`, and check that they are the whole of MovieLens 100k.

    Raises OSError for a file that is missing, ValueError for one that is not what it should be.
    """
    ratings = pd.read_csv(
        folder / "u.data", sep="\t", names=["user_id", "movie_id", "rating", "timestamp"], dtype="int64"
    )
    movies = pd.read_csv(
        folder / "u.item", sep="|", names=["movie_id", "title"], usecols=[0, 1], encoding="latin-1"
    )
    users = pd.read_csv(
        folder / "u.user", sep="|", names=["user_id", "age", "gender"], usecols=[0, 1, 2], encoding="latin-1"
    )
    return checked(MovieLens(ratings, movies, users, origin))


def checked(data: MovieLens) -> MovieLens:
    """The same data, if it has the size and the values of MovieLens 100k. Raises ValueError."""
    sizes = (len(data.ratings), len(data.users), len(data.movies))
    if sizes != (RATINGS, USERS, MOVIES):
        raise ValueError("not MovieLens 100k: {:,} ratings, {:,} users, {:,} movies".format(*sizes))
    if not data.ratings["rating"].between(1, 5).all():
        raise ValueError("not MovieLens 100k: a rating is not between 1 and 5")
    if data.ratings.duplicated(["user_id", "movie_id"]).any():
        raise ValueError("not MovieLens 100k: a user rates a movie twice")
    return data


def generate_movielens(seed: int = 7) -> MovieLens:
    """Made-up data of the same form and size, whose statistics are close to the real one's.

    A few users rate a lot and a few movies are rated a lot. A rating is the sum of a mean, what the user
    is like, how good the movie is, how well the two match (8 hidden tastes) and chance.
    """
    rng = np.random.default_rng(seed)
    user, movie = np.nonzero(who_rates_what(rng))
    user_taste, movie_taste = rng.normal(size=(USERS, 8)), rng.normal(size=(MOVIES, 8))
    match = (user_taste[user] * movie_taste[movie]).sum(axis=1) / np.sqrt(8)
    user_bias, movie_bias = rng.normal(scale=0.42, size=USERS), rng.normal(scale=0.55, size=MOVIES)
    exact = 3.6 + user_bias[user] + movie_bias[movie] + 0.45 * match + rng.normal(scale=0.84, size=RATINGS)
    ratings = pd.DataFrame(
        {
            "user_id": user + 1,
            "movie_id": movie + 1,
            "rating": np.clip(np.rint(exact), 1, 5).astype("int64"),
            "timestamp": rng.integers(874_724_710, 893_286_638, size=RATINGS),  # as MovieLens: 1997 to 1998
        }
    )
    movies = pd.DataFrame({"movie_id": np.arange(1, MOVIES + 1)})
    movies["title"] = [f"Generated movie {movie_id}" for movie_id in movies["movie_id"]]
    users = pd.DataFrame({"user_id": np.arange(1, USERS + 1)})
    users["age"] = rng.integers(7, 74, size=USERS)
    users["gender"] = rng.choice(["F", "M"], size=USERS, p=[0.29, 0.71])
    return checked(MovieLens(ratings, movies, users, "generated"))


def who_rates_what(rng: np.random.Generator) -> np.ndarray:
    """A matrix of users by movies that is true in exactly `RATINGS` places.

    Taking the highest sums of log-weight and Gumbel noise draws pairs without replacement, each as likely
    as its weight. Everybody rates at least 20 movies, and each movie is rated at least once, as in
    MovieLens.
    """
    activity = rng.normal(scale=1.0, size=(USERS, 1))
    popularity = rng.normal(scale=1.5, size=(1, MOVIES))
    score = activity + popularity + rng.gumbel(size=(USERS, MOVIES))
    np.put_along_axis(score, np.argsort(score, axis=1)[:, -20:], np.inf, axis=1)
    score[score.argmax(axis=0), np.arange(MOVIES)] = np.inf
    chosen = np.zeros(score.size, dtype=bool)
    chosen[np.argpartition(score, -RATINGS, axis=None)[-RATINGS:]] = True
    return chosen.reshape(score.shape)


def split(ratings: pd.DataFrame, seed: int = 42) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and held-out ratings, four to one, the same for the same ratings."""
    held_out = ratings.sample(frac=0.2, random_state=seed)
    rest = ratings.drop(held_out.index)
    return rest.reset_index(drop=True), held_out.reset_index(drop=True)
