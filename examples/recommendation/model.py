"""The model as it is served. MLflow stores this file with the learned numbers ("models from code").

It runs where only the serving environment is installed, so it imports nothing of this example.
"""

from typing import Any

import mlflow
import numpy as np
import pandas as pd


class MovieModel(mlflow.pyfunc.PythonModel):
    """From user_id and movie_id to a rating between 1 and 5."""

    def load_context(self, context: Any) -> None:
        with np.load(context.artifacts["factors"]) as learned:
            self.mean = float(learned["mean"])
            self.users, self.movies = pd.Index(learned["user_ids"]), pd.Index(learned["movie_ids"])
            # A row of zeros at the end: it is what the index -1 of an unknown id picks, so that a new user
            # gets the movie's own average and a new movie the user's.
            self.user_bias = np.append(learned["user_bias"], 0.0)
            self.movie_bias = np.append(learned["movie_bias"], 0.0)
            self.user_factors = np.pad(learned["user_factors"], ((0, 1), (0, 0)))
            self.movie_factors = np.pad(learned["movie_factors"], ((0, 1), (0, 0)))

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        user = self.users.get_indexer(model_input["user_id"])
        movie = self.movies.get_indexer(model_input["movie_id"])
        match = (self.user_factors[user] * self.movie_factors[movie]).sum(axis=1)
        rating = self.mean + self.user_bias[user] + self.movie_bias[movie] + match
        return pd.DataFrame({"rating": rating.clip(1.0, 5.0)})


mlflow.models.set_model(MovieModel())
