"""Code that models bring along, and whose code an exception came from."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

import mlflow
from mlflow.models import Model

_MLFLOW = str(Path(mlflow.__file__).parent)
_HERE = str(Path(__file__).parent)


def forget(folder: Path, models: Path) -> None:
    """A new version of a model's own modules must not meet the old ones: MLflow puts the folder on the path,
    and Python would take what is already imported. Only modules from below `models` are forgotten.
    """
    brought = _code_folder(folder)
    if brought is None:
        return
    names = {entry.stem for entry in brought.iterdir() if entry.is_dir() or entry.suffix == ".py"}
    for name in [m for m in sys.modules if m.partition(".")[0] in names]:
        if _where(name).startswith(f"{models}/"):
            del sys.modules[name]


def _code_folder(folder: Path) -> Path | None:
    name = Model.load(str(folder)).flavors.get("python_function", {}).get("code")
    brought = folder / name if name else None
    return brought if brought is not None and brought.is_dir() else None


def _where(name: str) -> str:
    module = sys.modules[name]
    return str(getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), ""))


def drop_path(folder: Path) -> None:
    """Take the code of a removed copy off the path again."""
    sys.path[:] = [entry for entry in sys.path if not entry.startswith(f"{folder}/")]


def raised_by_mlflow(error: BaseException) -> bool:
    """MLflow refused the request before the model's own code saw it: only frames of ours and of MLflow's."""
    if type(error).__module__.partition(".")[0] != "mlflow":
        return False
    return all(_is_ours(frame) for frame in _files(error.__traceback__))


def _files(trace: TracebackType | None) -> list[str]:
    found = []
    while trace is not None:
        found.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return found


def _is_ours(file: str) -> bool:
    return file.startswith((_MLFLOW, _HERE)) or "/concurrent/futures/" in file or "/asyncio/" in file
