"""Train the movie recommender on the stack, and serve it.

matcha run -- python run.py
"""

import argparse
import os
from pathlib import Path

# Before ZenML and MLflow are imported: their chatter off, unless you set it, so that the steps are heard. (An
# error still ends the run, and shows.)
os.environ.update(
    {
        "ZENML_LOGGING_VERBOSITY": "CRITICAL",
        "ZENML_ENABLE_RICH_TRACEBACK": "false",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        **os.environ,
    }
)

from movielens import read_movielens
from pipeline import recommendation


def main() -> None:
    options = arguments()
    recommendation(folder=options.data, factors=options.factors, serve=options.deploy)
    if options.deploy:
        print("Next: matcha run -- python inference.py --user 42 --movie 50")
    else:
        print("Not deployed (--no-deploy). Next: matcha deploy models:/movie@champion --name movie")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the movie recommender on the stack, and serve it.")
    parser.add_argument("--data", metavar="FOLDER", help="MovieLens 100k: u.data, u.item and u.user")
    parser.add_argument("--factors", type=int, default=20, help="hidden tastes per user (default: 20)")
    parser.add_argument("--no-deploy", dest="deploy", action="store_false", help="train and register only")
    options = parser.parse_args()
    if "ZENML_STORE_URL" not in os.environ:
        parser.error("no stack is set. Run it with: matcha run -- python run.py")
    if options.data:
        try:
            read_movielens(Path(options.data), "folder")
        except (OSError, ValueError) as problem:
            parser.error(f"--data: {problem}")
    return options


if __name__ == "__main__":
    main()
