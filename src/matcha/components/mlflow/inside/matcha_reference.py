"""Keeps a sample of a run's training data as the run's artifact `matcha/reference.parquet`.

MLflow records of a dataset only where it lies and a digest. Drift is measured against the data itself, so
the source is read while it can still be read. Runs in an environment with mlflow, pandas and pyarrow:

    python -m matcha_reference --run RUN [--max-rows 10000] [--force]
    python -m matcha_reference --experiment-since UNIX_MS

Prints JSON: {run_id, status, rows, message}, or {status: "done", runs: [...]} for many. Statuses: logged;
exists (an earlier one is kept); no-dataset; unreachable; changed (not the data the run saw; nothing is
logged without --force); unsupported. Exit code 0 for all of them, 1 where MLflow itself does not answer.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FOLDER, FILE = "matcha", "reference.parquet"
MAX_ROWS = 10_000
HTTP_SECONDS = 30.0
CONTEXT = "mlflow.data.context"
_ORDER = ("training", "train", "")  # contexts, best first; any other comes after
_ENDINGS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".json": "json",
    ".jsonl": "lines",
    ".ndjson": "lines",
}
_PACKED = (".gz", ".bz2", ".zip", ".xz", ".zst")


@dataclass(frozen=True)
class Result:
    """What came of one run."""

    run_id: str
    status: str
    rows: int = 0
    message: str = ""


class NotUsable(Exception):
    """The dataset gives no reference; `status` as in `Result`."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Source:
    """A file on this machine. `written`: when it was last, in Unix milliseconds, as far as known."""

    path: Path
    written: float | None


def keep(client: Any, run_id: str, *, max_rows: int = MAX_ROWS, force: bool = False) -> Result:
    """Log the reference of one run. Raises MlflowException where the tracking server fails."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return Result(run_id, "no-dataset", 0, f"MLflow knows no run {run_id}.")
    if not force and _exists(client, run_id):
        return Result(run_id, "exists", 0, "The run has a reference already.")
    return _from_datasets(client, run, max_rows, force)


def _exists(client: Any, run_id: str) -> bool:
    return any(entry.path == f"{FOLDER}/{FILE}" for entry in client.list_artifacts(run_id, FOLDER))


def _from_datasets(client: Any, run: Any, max_rows: int, force: bool) -> Result:
    """The first dataset that can be used; otherwise what is wrong with the best one."""
    run_id = run.info.run_id
    wrong: NotUsable | None = None
    for dataset, context in _datasets(run):
        try:
            rows, message = _log(client, run, dataset, context, max_rows, force)
        except NotUsable as error:
            wrong = wrong or error
        else:
            return Result(run_id, "logged", rows, message)
    if wrong:
        return Result(run_id, wrong.status, 0, str(wrong))
    advice = 'mlflow.log_input(mlflow.data.from_pandas(df, source="data.csv"), context="training")'
    return Result(run_id, "no-dataset", 0, f"The run has no dataset. Log the one it trains on: {advice}")


def _datasets(run: Any) -> list[tuple[Any, str]]:
    found = []
    for entry in getattr(run.inputs, "dataset_inputs", None) or ():
        context = next((t.value for t in entry.tags if t.key == CONTEXT), "")
        found.append((entry.dataset, context))
    return sorted(found, key=lambda pair: _ORDER.index(pair[1]) if pair[1] in _ORDER else len(_ORDER))


def _log(client: Any, run: Any, dataset: Any, context: str, rows: int, force: bool) -> tuple[int, str]:
    """Rows logged, and what is to be said of them. Raises NotUsable."""
    with tempfile.TemporaryDirectory() as folder:
        source = _fetch(dataset, run, Path(folder))
        frame = read(source.path)
        said = _changes(dataset, frame, source, run, force)
        about, frame, more = _columns(client, run, frame)
        drawn = sample(frame, rows)
        about |= {"dataset": dataset.name, "digest": dataset.digest, "context": context, "of": len(frame)}
        file = Path(folder, "out", FILE)
        write(drawn, about, file)
        client.log_artifact(run.info.run_id, str(file), FOLDER)
    other = f'It is the dataset logged as "{context}".' if context not in _ORDER else ""
    return len(drawn), " ".join(filter(None, (*said, *more, other)))


# where the data lies


def _fetch(dataset: Any, run: Any, folder: Path) -> Source:
    """Raises NotUsable."""
    if dataset.source_type == "code":
        raise NotUsable(
            "unreachable",
            f'Dataset "{dataset.name}" was logged from memory: say where it lies, '
            'as in mlflow.data.from_pandas(df, source="data.csv").',
        )
    if dataset.source_type == "local":
        return _local(dataset, run)
    if "delta" in dataset.source_type or "spark" in dataset.source_type:
        raise NotUsable("unsupported", f'Sources of type "{dataset.source_type}" are not read.')
    return _downloaded(dataset, folder)


def _local(dataset: Any, run: Any) -> Source:
    uri = str(json.loads(dataset.source).get("uri", ""))
    text = urllib.parse.unquote(urllib.parse.urlsplit(uri).path) if uri.startswith("file:") else uri
    for folder in (Path(), Path(run.data.tags.get("mlflow.source.name", "")).parent):
        path = folder / Path(text).expanduser()
        if path.exists():
            return Source(path, _written(path))
    raise NotUsable("unreachable", f'Dataset "{dataset.name}" lies at {uri}, which is not there.')


def _written(path: Path) -> float:
    """When the newest of its files was written, in milliseconds."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return max(file.stat().st_mtime for file in files) * 1000


def _downloaded(dataset: Any, folder: Path) -> Source:
    import mlflow

    try:
        if dataset.source_type == "http":
            return Source(over_http(json.loads(dataset.source)["url"], folder), None)
        return Source(Path(mlflow.data.get_source(dataset).load(dst_path=str(folder))), None)
    except Exception as error:  # every kind of source has errors of its own
        told = f'Dataset "{dataset.name}" ({dataset.source_type}) could not be read: {first_line(error)}'
        raise NotUsable("unreachable", told) from error


def over_http(url: str, folder: Path) -> Path:
    """MLflow's own way tries a dead address for a minute, and takes a name from the answer's headers."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{parts.scheme} is no scheme to read from")
    path = folder / (Path(urllib.parse.unquote(parts.path)).name or "data")
    with urllib.request.urlopen(url, timeout=HTTP_SECONDS) as answer, path.open("wb") as file:  # noqa: S310
        shutil.copyfileobj(answer, file, 2**20)
    return path


def first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__


def read(path: Path) -> Any:
    """As a DataFrame. Raises NotUsable."""
    kind = "parquet" if path.is_dir() else _kind(path)
    try:
        return _READERS[kind](path)
    except KeyError:
        raise NotUsable("unsupported", f"{path.name} is none of CSV, TSV, Parquet and JSON.") from None
    except (OSError, ValueError, UnicodeError) as error:
        raise NotUsable("unsupported", f"{path.name} cannot be read: {first_line(error)}") from error


def _kind(path: Path) -> str:
    endings = [e.lower() for e in path.suffixes if e.lower() not in _PACKED]
    return _ENDINGS.get(endings[-1] if endings else "", "")


def _pandas(reader: str, **options: Any) -> Any:
    def read(path: Path) -> Any:
        import pandas as pd

        return getattr(pd, reader)(path, **options)

    return read


_READERS = {
    "csv": _pandas("read_csv"),
    "tsv": _pandas("read_csv", sep="\t"),
    "parquet": _pandas("read_parquet"),
    "json": _pandas("read_json"),
    "lines": _pandas("read_json", lines=True),
}


# is it still the same


def _changes(dataset: Any, frame: Any, source: Source, run: Any, force: bool) -> list[str]:
    """What to say of data that is not digest for digest the run's. Raises NotUsable where it changed.

    The digest is that of the frame the run had in hand. One that was made from the file (rows split off,
    columns added) has another digest than the file itself, so a file that was not written after the run is
    taken for unchanged.
    """
    if _same(dataset, frame):
        return []
    ended = run.info.end_time or float("inf")
    if source.written is not None and source.written <= ended:
        return ["The run trained on a part or a transformation of this file."]
    told = (
        f'Dataset "{dataset.name}" is no longer what the run trained on '
        f"(digest {dataset.digest} then), so it is no reference for drift."
    )
    if not force:
        raise NotUsable("changed", told)
    return [told]


def _same(dataset: Any, frame: Any) -> bool:
    from mlflow.data import from_pandas

    readings = [frame, *([frame.set_index(frame.columns[0])] if len(frame.columns) > 1 else [])]
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        return any(from_pandas(reading).digest == dataset.digest for reading in readings)
    return False


# which columns


def _columns(client: Any, run: Any, frame: Any) -> tuple[dict[str, Any], Any, list[str]]:
    """(facts for the file, the columns to keep, what to say). Raises NotUsable where no input is in it."""
    frame = frame.set_axis([str(c) for c in frame.columns], axis=1)
    signature = _signature(client, run)
    inputs = _names(signature.inputs) if signature else []
    if not inputs:
        return {"inputs": [], "target": "", "prediction": ""}, frame, []
    held = [c for c in inputs if c in frame]
    missing = [c for c in inputs if c not in frame]
    if not held:
        raise NotUsable(
            "unsupported", f"The data has none of the model's inputs ({', '.join(inputs[:5])} ...)."
        )
    others = [c for c in frame if c not in inputs]
    prediction = next((c for c in others if c in ("prediction", "predictions")), "")
    target = _target([c for c in others if c != prediction], _names(signature.outputs))
    kept = [*held, *(c for c in (target, prediction) if c)]
    said = [f"Not in the data: {', '.join(missing[:5])}."] if missing else []
    return {"inputs": held, "target": target, "prediction": prediction}, frame[kept], said


def _target(others: list[str], outputs: list[str]) -> str:
    """MLflow records no target: the one other column, or the one named like the model's output."""
    named = [c for c in others if c in outputs]
    return others[0] if len(others) == 1 else next(iter(named), "")


def _names(schema: Any) -> list[str]:
    return [str(n) for n in schema.input_names()] if schema is not None and schema.has_input_names() else []


def _signature(client: Any, run: Any) -> Any:
    """Of the model the run logged, the newest where there are several; None without one."""
    from mlflow.models import get_model_info

    with contextlib.suppress(Exception):  # no model, or one that cannot be read: all columns are kept
        outputs = getattr(run.outputs, "model_outputs", None) or ()
        found = [client.get_logged_model(o.model_id) for o in outputs]
        newest = max(found, key=lambda m: m.creation_timestamp)
        return get_model_info(newest.model_uri).signature
    return None


def sample(frame: Any, rows: int) -> Any:
    return frame.sample(rows, random_state=0).sort_index() if len(frame) > rows else frame


def write(frame: Any, about: dict[str, Any], file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir()
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # a column of several types
        mixed = frame.select_dtypes("object").columns
        table = pa.Table.from_pandas(frame.astype(dict.fromkeys(mixed, str)), preserve_index=False)
    metadata = {**(table.schema.metadata or {}), b"matcha": json.dumps(about).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), file, compression="zstd")


# many runs


def _since(client: Any, moment: int) -> Iterator[str]:
    """Runs started since then that have a dataset and no reference yet."""
    experiments = [e.experiment_id for e in client.search_experiments()]
    token = None
    while True:
        page = client.search_runs(
            experiments, f"attributes.start_time >= {moment}", max_results=500, page_token=token
        )
        yield from (r.info.run_id for r in page if _datasets(r) and not _exists(client, r.info.run_id))
        token = page.token
        if not token:
            return


def _any_since(moment: int) -> bool:
    """Whether any run started since then: MLflow's own client takes seconds to import. True where that cannot
    be said.
    """
    tracker = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    if not tracker.startswith("http://"):
        return True
    api = f"{tracker}/api/2.0/mlflow"
    try:
        found = _post(f"{api}/experiments/search", {"max_results": 1000})
        ids = [each["experiment_id"] for each in found.get("experiments", ())]
        if found.get("next_page_token"):
            return True
        wanted = {"experiment_ids": ids, "filter": f"attributes.start_time >= {moment}", "max_results": 1}
        return bool(_post(f"{api}/runs/search", wanted).get("runs"))
    except (OSError, ValueError):
        return True


def _post(url: str, wanted: dict[str, Any]) -> dict[str, Any]:
    body, kind = json.dumps(wanted).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(url, body, kind)  # noqa: S310 - the stack's own, by http alone
    with urllib.request.urlopen(request, timeout=HTTP_SECONDS) as answer:  # noqa: S310
        return dict(json.load(answer))


def main(arguments: list[str]) -> int:
    asked = _parse(arguments)
    return answer(lambda: _work(asked))


def answer(work: Callable[[], dict[str, Any]]) -> int:
    """Print what `work` comes to as JSON; the exit code."""
    os.environ.setdefault(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"
    )  # 7 by default: a dead address takes a minute
    answer_to = sys.stdout
    with contextlib.redirect_stdout(io.StringIO()):  # libraries print there
        try:
            found, code = work(), 0
        except Exception as error:  # noqa: BLE001 - the caller reads JSON, whatever happened
            found, code = {"status": "failed", "message": f"MLflow: {str(error)[:500]}"}, 1
    print(json.dumps(found), file=answer_to)
    return code


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="matcha_reference", allow_abbrev=False)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run")
    which.add_argument("--experiment-since", type=int, metavar="UNIX_MS")
    parser.add_argument("--max-rows", type=int, default=MAX_ROWS)
    parser.add_argument("--force", action="store_true")
    return parser.parse_args(arguments)


def _work(asked: argparse.Namespace) -> dict[str, Any]:
    if asked.experiment_since is not None and not _any_since(asked.experiment_since):
        return {"status": "done", "runs": []}
    from mlflow import MlflowClient

    client = MlflowClient()
    if asked.run:
        return asdict(keep(client, asked.run, max_rows=asked.max_rows, force=asked.force))
    runs = list(_since(client, asked.experiment_since))
    return {"status": "done", "runs": [asdict(keep(client, r, max_rows=asked.max_rows)) for r in runs]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
