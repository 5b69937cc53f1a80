"""Matrix factorisation with biases, the model that the Netflix prize made popular.

A rating is guessed as

    mean + user_bias + movie_bias + user_factors · movie_factors

The factors are found by alternating least squares: with the movies' factors fixed, the best factors of each
user are the solution of a small ridge regression, and the other way round.
"""

import numpy as np
import pandas as pd


def factorise(
    ratings: pd.DataFrame, factors: int = 20, penalty: float = 15.0, rounds: int = 15, seed: int = 0
) -> dict[str, np.ndarray]:
    """Learn from the columns user_id, movie_id and rating.

    Returns mean (a scalar), user_ids (n), user_bias (n), user_factors (n, factors), and the same three for
    movies. The higher the `penalty`, the closer the factors stay to zero, most of all those of users and
    movies with few ratings.
    """
    user_ids, user = np.unique(ratings["user_id"], return_inverse=True)
    movie_ids, movie = np.unique(ratings["movie_id"], return_inverse=True)
    mean, user_bias, movie_bias = fit_biases(user, movie, ratings["rating"].to_numpy(dtype=float))
    left = ratings["rating"].to_numpy() - mean - user_bias[user] - movie_bias[movie]

    movie_factors = np.random.default_rng(seed).normal(scale=0.1, size=(len(movie_ids), factors))
    by_user, by_movie = rows_of(user), rows_of(movie)
    for _ in range(rounds):
        user_factors = solve(by_user, movie_factors[movie], left, penalty)
        movie_factors = solve(by_movie, user_factors[user], left, penalty)
    return {
        "mean": np.array(mean),
        "user_ids": user_ids,
        "user_bias": user_bias,
        "user_factors": user_factors,
        "movie_ids": movie_ids,
        "movie_bias": movie_bias,
        "movie_factors": movie_factors,
    }


def fit_biases(
    user: np.ndarray, movie: np.ndarray, rating: np.ndarray, shrink: float = 5.0, rounds: int = 10
) -> tuple[float, np.ndarray, np.ndarray]:
    """How far users and movies are from the mean; `shrink` is the number of average ratings added to each."""
    mean = float(rating.mean())
    user_bias = np.zeros(user.max() + 1)
    for _ in range(rounds):
        movie_bias = np.bincount(movie, rating - mean - user_bias[user]) / (shrink + np.bincount(movie))
        user_bias = np.bincount(user, rating - mean - movie_bias[movie]) / (shrink + np.bincount(user))
    return mean, user_bias, movie_bias


def rows_of(group: np.ndarray) -> list[np.ndarray]:
    """For each group 0, 1, 2 ... the positions at which it stands."""
    ends = np.cumsum(np.bincount(group))
    return np.split(np.argsort(group, kind="stable"), ends[:-1])


def solve(groups: list[np.ndarray], inputs: np.ndarray, target: np.ndarray, penalty: float) -> np.ndarray:
    """One ridge regression a group: the weights that turn its rows of `inputs` into its `target`."""
    ridge = penalty * np.eye(inputs.shape[1])
    weights = [
        np.linalg.solve(inputs[rows].T @ inputs[rows] + ridge, inputs[rows].T @ target[rows])
        for rows in groups
    ]
    return np.stack(weights)
