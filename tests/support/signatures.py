"""A model of every kind of signature: what `matcha predict` is given for it, and what the model then gets.

Plain data: unit tests make requests of it, and `stack/serving_models.py` makes models of it, which answer
with what they got.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """`inputs`: MLflow's JSON. `rows`: as `--json` takes them. `got`: what the model says, row by row."""

    name: str
    inputs: list[dict[str, Any]]
    rows: str
    got: list[str]


def column(kind: str, name: str = "x", **more: Any) -> dict[str, Any]:
    return {"type": kind, "name": name, "required": True, **more}


def tensor(dtype: str, *shape: int, name: str = "") -> dict[str, Any]:
    found = {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}
    return {"name": name, **found} if name else found


def of(kind: str) -> dict[str, Any]:
    return {"type": kind}


PERSON = {
    "age": {"type": "integer", "required": True},
    "weight": {"type": "float", "required": True},
    "born": {"type": "datetime", "required": True},
    "photo": {"type": "binary", "required": True},
    "tags": {"type": "array", "items": of("string"), "required": False},
}
JANE = '{"age": 3, "weight": 2, "born": "2024-01-31T12:00:00", "photo": "dGV4dA==", "tags": ["a"]}'
JANE_GOT = (
    "{'age': np.int32(3), 'weight': np.float32(2.0), 'born': Timestamp('2024-01-31 12:00:00'), "
    "'photo': b'text', 'tags': ['a']}"
)

COLUMNS = [
    Kind("boolean", [column("boolean")], '[{"x": true}, {"x": "False"}]', ["x=True", "x=False"]),
    Kind("integer", [column("integer")], '[{"x": 3}, {"x": "-3"}]', ["x=3", "x=-3"]),
    Kind("long", [column("long")], '[{"x": 9007199254740993}]', ["x=9007199254740993"]),
    Kind("float", [column("float")], '[{"x": 2}, {"x": 0.5}, {"x": null}]', ["x=2.0", "x=0.5", "x=nan"]),
    Kind(
        "double",
        [column("double")],
        '[{"x": 0.1234567890123456}, {"x": 1e-12}, {"x": NaN}]',
        ["x=0.1234567890123456", "x=1e-12", "x=nan"],
    ),
    Kind("string", [column("string")], '[{"x": "c\u2028d"}, {"x": 5}]', ["x='c\\u2028d'", "x='5'"]),
    Kind(
        "datetime",
        [column("datetime")],
        '[{"x": "2024-01-31T12:00:00"}]',
        ["x=Timestamp('2024-01-31 12:00:00')"],
    ),
    Kind("binary", [column("binary")], '[{"x": "dGV4dA=="}, {"x": ""}]', ["x=b'text'", "x=b''"]),
    Kind(
        "optional",
        [column("long", "n"), column("string", required=False), column("double", "z", required=False)],
        '[{"n": 1, "x": "a"}, {"n": 2}]',
        ["n=1; x='a'", "n=2; x=nan"],
    ),
    Kind(
        "array-double",
        [column("array", items=of("double"))],
        '[{"x": [1.5, 2]}, {"x": [3]}]',
        ["x=[1.5, 2.0]", "x=[3.0]"],
    ),
    Kind(
        "array-float",
        [column("array", items=of("float"))],
        '[{"x": [1.5, 2]}]',
        ["x=array([1.5, 2. ], dtype=float32)"],
    ),
    Kind(
        "array-integer",
        [column("array", items=of("integer"))],
        '[{"x": [1, 2]}]',
        ["x=array([1, 2], dtype=int32)"],
    ),
    Kind(
        "array-long",
        [column("array", items=of("long"))],
        '[{"x": [1, 2]}, {"x": "[3]"}]',
        ["x=[1, 2]", "x=[3]"],
    ),
    Kind("array-string", [column("array", items=of("string"))], '[{"x": ["a", "b"]}]', ["x=['a', 'b']"]),
    Kind("array-boolean", [column("array", items=of("boolean"))], '[{"x": [true]}]', ["x=[True]"]),
    Kind(
        "array-datetime",
        [column("array", items=of("datetime"))],
        '[{"x": ["2024-01-31T12:00:00"]}]',
        ["x=array(['2024-01-31T12:00:00.000000000'], dtype='datetime64[ns]')"],
    ),
    Kind("array-binary", [column("array", items=of("binary"))], '[{"x": ["dGV4dA=="]}]', ["x=[b'text']"]),
    Kind("array-any", [column("array", items=of("any"))], '[{"x": [1, "a", null]}]', ["x=[1, 'a', None]"]),
    Kind(
        "array-array",
        [column("array", items={"type": "array", "items": of("double")})],
        '[{"x": [[1, 2], [3]]}]',
        ["x=[[1.0, 2.0], [3.0]]"],
    ),
    Kind("object", [column("object", properties=PERSON)], f'[{{"x": {JANE}}}]', [f"x={JANE_GOT}"]),
    Kind(
        "array-object",
        [column("array", items={"type": "object", "properties": PERSON})],
        f'[{{"x": [{JANE}]}}]',
        [f"x=[{JANE_GOT}]"],
    ),
    Kind(
        "map",
        [column("map", values={"type": "array", "items": of("double")})],
        '[{"x": {"a": [1]}}]',
        ["x={'a': [1.0]}"],
    ),
    Kind(
        "any",
        [column("any")],
        '[{"x": 5}, {"x": "5"}, {"x": {"a": [1, null]}}]',
        ["x=5", "x='5'", "x={'a': [1, None]}"],
    ),
    Kind("vector", [column("sparkml_vector")], '[{"x": [1, 2.5]}]', ["x=[1.0, 2.5]"]),
    Kind("unnamed", [{"type": "double", "required": True}], "[[1], [2]]", ["input-0=1.0", "input-0=2.0"]),
    Kind(
        "several-unnamed",
        [{"type": "long", "required": True}, {"type": "string", "required": True}],
        '[[1, "a"], [2, "b"]]',
        ["input-0=1; input-1='a'", "input-0=2; input-1='b'"],
    ),
    Kind(
        "several-unnamed-by-name",
        [{"type": "long", "required": True}, {"type": "long", "required": True}],
        '[{"input-0": 1, "input-1": 2}]',
        ["input-0=1; input-1=2"],
    ),
]
TENSORS = [
    *(
        Kind(
            dtype,
            [tensor(dtype, -1, 3)],
            "[[1, 2, 3], [4, 5, 6]]",
            [f"{dtype} [1, 2, 3]", f"{dtype} [4, 5, 6]"],
        )
        for dtype in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
    ),
    Kind(
        "uint64",
        [tensor("uint64", -1, 2)],
        "[[1, 18446744073709551615]]",
        ["uint64 [1, 18446744073709551615]"],
    ),
    *(
        Kind(
            dtype,
            [tensor(dtype, -1, 2)],
            "[[1, 0.5], [2, null]]",
            [f"{dtype} [1.0, 0.5]", f"{dtype} [2.0, nan]"],
        )
        for dtype in ("float16", "float32", "float64")
    ),
    Kind("bool", [tensor("bool", -1, 2)], "[[true, false]]", ["bool [True, False]"]),
    Kind("str", [tensor("str", -1, 2)], '[["abc", "[1]"]]', ["<U3 ['abc', '[1]']"]),
    Kind("str-alone", [tensor("str", -1)], '[["abc"], ["d"]]', ["<U3 'abc'", "<U3 'd'"]),
    Kind("bytes", [tensor("bytes", -1, 1)], '[["abé"]]', ["|S4 [b'ab\\xc3\\xa9']"]),
    Kind("words", [tensor("object", -1)], '[["abc"]]', ["object 'abc'"]),
    Kind("vector-of-numbers", [tensor("float64", -1)], "[[1], [2]]", ["float64 1.0", "float64 2.0"]),
    Kind(
        "picture",
        [tensor("float32", -1, 2, 2)],
        "[[[1, 2], [3, 4]], [5, 6, 7, 8]]",
        ["float32 [[1.0, 2.0], [3.0, 4.0]]", "float32 [[5.0, 6.0], [7.0, 8.0]]"],
    ),
    Kind(
        "any-size",
        [tensor("int64", -1, -1, -1)],
        "[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]",
        ["int64 [[1, 2], [3, 4]]", "int64 [[5, 6], [7, 8]]"],
    ),
    Kind("fixed", [tensor("int64", 1, 2)], "[[1, 2]]", ["int64 [1, 2]"]),
    Kind(
        "several",
        [tensor("float32", -1, 2, name="a"), tensor("int64", -1, name="b"), tensor("str", -1, name="c")],
        '[{"a": [1, 2], "b": 3, "c": "x"}, {"a": [4, 5], "b": 6, "c": "y"}]',
        ["a: float32 [1.0, 2.0]; b: int64 3; c: <U1 'x'", "a: float32 [4.0, 5.0]; b: int64 6; c: <U1 'y'"],
    ),
    Kind(
        "alone-with-a-name",
        [tensor("float64", -1, 2, name="a")],
        '[{"a": [1, 2]}]',
        ["a: float64 [1.0, 2.0]"],
    ),
]
UNSIGNED = [
    Kind("none", [], "[[1, 2], [3, 4]]", ["int64 [1, 2]", "int64 [3, 4]"]),
    Kind("none-named", [], '[{"a": 1, "b": "x", "c": [1]}]', ["a=1; b='x'; c=[1]"]),
]
REFUSED = {"complex": tensor("complex128", -1), "times": tensor("datetime64[ns]", -1)}
KINDS = [*COLUMNS, *TENSORS, *UNSIGNED]


def as_json() -> str:
    refused = {name: [spec] for name, spec in REFUSED.items()}
    return json.dumps({**{kind.name: kind.inputs for kind in KINDS}, **refused})
