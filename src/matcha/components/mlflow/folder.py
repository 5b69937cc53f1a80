"""What MLflow writes into the folder of a model, read into plain values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from matcha.errors import MatchaError

Read = Callable[[str], "bytes | None"]  # a file of the model's folder; None where there is none


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The description of a model. `signature` holds MLflow's own lists under inputs, outputs and params;
    `example` is what MLflow's scoring server would be sent, None where none was logged with the model.
    """

    run_id: str = ""
    model_id: str = ""
    requirements: tuple[str, ...] = ()
    python: str = ""
    signature: dict[str, Any] = msgspec.field(default_factory=dict)
    flavors: tuple[str, ...] = ()
    example: Any = None


def read(where: str, file: Read) -> Model | None:
    """None where the folder holds no model. Raises MatchaError for a description that cannot be read."""
    raw = file("MLmodel")
    if raw is None:
        return None
    described = _yaml(raw, f"{where}/MLmodel")
    conda = file("conda.yaml")
    environment = _yaml(conda, f"{where}/conda.yaml") if conda else {}
    return Model(
        run_id=str(described.get("run_id") or ""),
        model_id=str(described.get("model_id") or ""),
        requirements=_requirements(file("requirements.txt"), environment),
        python=_python(file("python_env.yaml"), environment, where),
        signature=_signature(described, where),
        flavors=tuple(sorted(_mapping(described.get("flavors")))),
        example=_example(_mapping(described.get("saved_input_example_info")), file),
    )


def _example(info: Mapping[str, Any], file: Read) -> Any:
    """Only for show: None where it cannot be read."""
    raw = file("serving_input_example.json") if info.get("serving_input_path") else None
    try:
        return json.loads(raw or b"null")
    except ValueError:
        return None


def _yaml(raw: bytes, where: str) -> Mapping[str, Any]:
    from ruamel.yaml import YAML  # noqa: PLC0415 - costs 50 ms, and most commands do without
    from ruamel.yaml.error import YAMLError  # noqa: PLC0415

    try:
        return _mapping(YAML(typ="safe", pure=True).load(raw))
    except (YAMLError, ValueError, RecursionError) as error:
        raise _broken(where, str(error)) from error


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _signature(described: Mapping[str, Any], where: str) -> dict[str, Any]:
    written = _mapping(described.get("signature"))
    try:
        return {
            part: json.loads(text) if isinstance(text, str) else text
            for part, text in written.items()
            if part in ("inputs", "outputs", "params") and text
        }
    except ValueError as error:
        raise _broken(f"{where}/MLmodel", f"The signature is no JSON: {error}") from error


def _requirements(raw: bytes | None, conda: Mapping[str, Any]) -> tuple[str, ...]:
    """Lines of pip; those of the conda environment where the model has no requirements.txt."""
    if raw is None:
        lines = [
            str(line) for part in _dependencies(conda) if isinstance(part, Mapping) for line in part["pip"]
        ]
    else:
        lines = raw.decode("utf-8", "replace").splitlines()
    stripped = (line.partition(" #")[0].strip() for line in lines)
    return tuple(line for line in stripped if line and not line.startswith("#"))


def _python(raw: bytes | None, conda: Mapping[str, Any], where: str) -> str:
    if raw is not None and (version := _yaml(raw, f"{where}/python_env.yaml").get("python")):
        return str(version)
    lines = [line for line in _dependencies(conda) if isinstance(line, str)]
    return next((line.split("=")[-1] for line in lines if line.startswith("python=")), "")


def _dependencies(conda: Mapping[str, Any]) -> list[str | Mapping[str, Any]]:
    """Of a conda environment: names, and the mapping with what pip installs."""
    found = conda.get("dependencies")
    parts = found if isinstance(found, list) else []
    return [
        part
        for part in parts
        if isinstance(part, str) or (isinstance(part, Mapping) and isinstance(part.get("pip"), list))
    ]


def _broken(where: str, why: str) -> MatchaError:
    return MatchaError(f"{where} cannot be read.", details=why, resolution="Log the model again.")
