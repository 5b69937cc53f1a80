"""Guard of models with a tensor signature: V2 inputs -> array, or arrays by name.

As in MLflow, shapes must match the signature's (-1 is any size) and types too, but for a narrower number of
the same kind, which is widened. null is NaN in float tensors and refused elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import inputs
from .inputs import BadRequest, Reading

DTYPES = {
    "BOOL": np.bool_,
    **{
        f"{kind}INT{bits}": np.dtype(f"{kind.lower()}int{bits}")
        for kind in ("", "U")
        for bits in (8, 16, 32, 64)
    },
    **{f"FP{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    "BYTES": np.dtype(object),
}


def can_carry(dtype: Any) -> bool:
    """Whether V2 has a datatype for it: not for complex numbers, times and long doubles."""
    return dtype.kind in "OUS" or dtype in [np.dtype(known) for known in DTYPES.values()]


@dataclass(frozen=True)
class Tensor:
    """`shape` holds -1 for any size. An empty `name`: the only input, whatever it is called."""

    name: str
    dtype: Any
    shape: tuple[int, ...]

    def read(self, tensor: Any) -> Any:
        """The array as MLflow wants it. Raises BadRequest naming the input."""
        inputs.check_content_type(tensor, self._content_types)
        self._check_datatype(tensor)
        self._check_shape(tensor)
        array = _array(tensor, self._text).astype(self.dtype, copy=False)
        shape = list(tensor.shape)
        if array.ndim > 1 and list(array.shape) != shape:
            raise BadRequest(tensor.name, f"shape {shape}, but its data is nested as {list(array.shape)}")
        inputs.check_size(tensor.name, shape, array.size)
        return array.reshape(shape)

    @property
    def _is_text(self) -> bool:
        return bool(self.dtype.kind in "OUS")

    @property
    def is_binary(self) -> bool:
        return bool(self.dtype.kind == "S")

    @property
    def _content_types(self) -> tuple[str, ...]:
        return ("str", "np", *(("base64",) if self.is_binary else ())) if self._is_text else ("np",)

    def _text(self, value: Any, content_type: str) -> Any:
        """One value of a tensor of text, or of bytes. Raises ValueError, TypeError."""
        if not self.is_binary:
            value = value.decode() if isinstance(value, bytes) else value
        elif content_type == "base64":
            value = inputs.unpacked(value)
        elif isinstance(value, str):
            value = value.encode()
        if not isinstance(value, bytes if self.is_binary else str):
            raise TypeError("not text")
        return value

    def _check_datatype(self, tensor: Any) -> None:
        said = inputs.datatype_of(tensor)
        given = np.dtype(DTYPES.get(said, np.void))
        same = given.kind == self.dtype.kind and given.itemsize <= self.dtype.itemsize
        if not (same or (self._is_text and said == "BYTES")):
            raise BadRequest(tensor.name, f"datatype {said}, the model expects {self.dtype}")

    def _check_shape(self, tensor: Any) -> None:
        shape = inputs.shape_of(tensor)
        fits = len(shape) == len(self.shape) and all(
            want in (-1, size) for want, size in zip(self.shape, shape, strict=True)
        )
        if not fits:
            raise BadRequest(tensor.name, f"shape {shape}, the model expects {list(self.shape)}")
        if 0 in shape:
            raise BadRequest(tensor.name, f"shape {shape} holds no values")


def _array(tensor: Any, text: Callable[[Any, str], Any]) -> Any:
    """Its data, flat or nested, checked against its own datatype."""
    said = inputs.datatype_of(tensor)
    values = inputs.values_of(tensor)
    if said == "BYTES":
        return _texts(tensor, values, text)
    try:
        array = np.array(values)
        if said == "UINT64" and array.dtype.kind == "f":  # so numpy reads mixed ones above and below 2**63
            array = np.array(values, dtype=object)
            array = array.astype(np.uint64) if all(type(v) is int for v in array.ravel()) else array
        if array.dtype.kind == "O":  # null, or numbers too long for 64 bits
            array = np.array(values, dtype=np.float64 if said.startswith("FP") else DTYPES[said])
    except (ValueError, TypeError, OverflowError) as error:
        raise BadRequest(tensor.name, f"its data is ragged, or holds what is not {said}") from error
    _check_kind(tensor.name, array, said)
    return array


def _check_kind(name: str, array: Any, said: str) -> None:
    wanted = {"F": "fiu", "I": "iu", "U": "iu", "B": "b"}[said[0]]
    if array.dtype.kind not in wanted:
        raise BadRequest(name, f"its data holds what is not {said}")
    if said in inputs.RANGES and array.size:
        inputs.check_range(name, [int(array.min()), int(array.max())], said)


def _texts(tensor: Any, values: list[Any], text: Callable[[Any, str], Any]) -> Any:
    """Flat or nested lists of text."""
    array, content_type = np.array(values, dtype=object), inputs.content_type_of(tensor)
    found = np.empty(array.size, dtype=object)
    for number, value in enumerate(array.ravel()):
        try:
            found[number] = text(value, content_type)
        except UnicodeDecodeError as error:
            raise BadRequest(tensor.name, f"value {number} is not text in UTF-8") from error
        except ValueError as error:
            raise BadRequest(tensor.name, f"value {number} is {inputs.shown(value)}: {error}") from error
        except TypeError as error:
            raise BadRequest(tensor.name, "its data is ragged, or holds what is not text") from error
    return found.reshape(array.shape)


class Tensors:
    """Reads requests for a model with these tensors."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tuple(tensors)
        self._names = [t.name for t in tensors]
        self.binary = frozenset(t.name for t in tensors if t.is_binary)

    def read(self, request: Any) -> Reading:
        """Raises BadRequest."""
        inputs.check_request(request, ("np", "dict"))
        given = inputs.by_name(request)
        if self._names == [""]:
            return self._single(given)
        self._check_names(given)
        values = {t.name: t.read(given[t.name]) for t in self._tensors}
        return Reading(values, _rows(values), lambda: _doubtful(values))

    def _single(self, given: dict[str, Any]) -> Reading:
        if len(given) > 1:
            raise BadRequest("", f"the model takes one tensor, not {len(given)}: {inputs.listed(given)}")
        name, tensor = next(iter(given.items()))
        value = self._tensors[0].read(tensor)
        return Reading(value, int(value.shape[0]), lambda: _doubtful({name: value}))

    def _check_names(self, given: dict[str, Any]) -> None:
        for name in given:
            if name not in self._names:
                raise BadRequest(name, f"the model has no such input; {inputs.near(name, self._names)}")
        missing = [name for name in self._names if name not in given]
        if missing:
            raise BadRequest(missing[0], f"missing; the request lacks {inputs.listed(missing)}")


def _rows(values: dict[str, Any]) -> int:
    """Inputs may differ in length only where the signature fixes no common one: the model decides then."""
    return int(next(iter(values.values())).shape[0])


def _doubtful(values: dict[str, Any]) -> list[str]:
    return [n for n, v in values.items() if v.dtype.kind == "f" and not np.isfinite(v).all()]
