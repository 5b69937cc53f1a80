"""Signature Version 4 against the examples that AWS publishes, and the pieces of uploads."""

from __future__ import annotations

import ast
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matcha.targets.kubernetes import code
from matcha.targets.kubernetes.inside import matcha_pod
from matcha.targets.kubernetes.inside.matcha_pod import sign
from matcha.targets.kubernetes.inside.matcha_pod.ending import Code, Deadline, Failed
from matcha.targets.kubernetes.inside.matcha_pod.multipart import pieces
from matcha.targets.kubernetes.inside.matcha_pod.s3 import Place, Store

FOLDER = Path(matcha_pod.__file__).parent

# "Authenticating Requests: Using the Authorization Header", Amazon S3 API Reference.
KEYS = sign.Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
HOST = {"Host": "examplebucket.s3.amazonaws.com"}
NOW = datetime(2013, 5, 24, tzinfo=timezone.utc)
EXAMPLES = {
    "an object's range": (
        ("GET", "/test.txt", {}, {**HOST, "Range": "bytes=0-9"}, b""),
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    ),
    "an object put": (
        (
            "PUT",
            "/test$file.text",
            {},
            {**HOST, "Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            b"Welcome to Amazon S3.",
        ),
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    ),
    "a query without a value": (
        ("GET", "/", {"lifecycle": ""}, HOST, b""),
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    ),
    "a query": (
        ("GET", "/", {"max-keys": "2", "prefix": "J"}, HOST, b""),
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    ),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_signatures_are_those_of_the_published_examples(example: str) -> None:
    (method, path, query, headers, body), expected = EXAMPLES[example]
    signed = sign.signed(
        method, path, query, headers, sign.sha256(body), credentials=KEYS, region="us-east-1", now=NOW
    )
    assert signed["Authorization"].endswith(f"Signature={expected}")
    assert "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request" in signed["Authorization"]


def test_temporary_keys_send_their_token_and_sign_it() -> None:
    keys = KEYS._replace(token="session")
    signed = sign.signed("GET", "/", {}, HOST, sign.sha256(b""), credentials=keys, region="x", now=NOW)
    assert signed["x-amz-security-token"] == "session"
    assert "x-amz-security-token" in signed["Authorization"]


def test_no_secret_shows() -> None:
    assert "wJalr" not in repr(KEYS._replace(token="wJalr"))


@given(st.lists(st.binary(max_size=20)), st.integers(1, 9))
def test_pieces_are_all_there_and_of_one_size_but_for_the_last(chunks: list[bytes], size: int) -> None:
    found = list(pieces(chunks, size))
    assert b"".join(found) == b"".join(chunks)
    assert all(len(piece) == size for piece in found[:-1])
    assert len(found[-1]) <= size
    assert all(found) or found == [b""]


@pytest.mark.parametrize("url", ["http://a/b", "s3:///b", "a/b", "s3://a/b?c", ""])
def test_what_is_no_place_is_refused(url: str) -> None:
    with pytest.raises(Failed) as caught:
        Place.of(url)
    assert caught.value.code == Code.USAGE


@pytest.mark.parametrize("endpoint", ["store:7070", "ftp://store", "http://user:secret@store", "http://"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    environ = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with pytest.raises(Failed) as caught:
        Store(environ, Deadline(1))
    assert caught.value.code == Code.USAGE
    assert "secret" not in str(caught.value)


def test_only_the_standard_library_is_imported() -> None:
    for file in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            assert {n.partition(".")[0] for n in names} <= sys.stdlib_module_names, file


def test_all_of_it_fits_a_config_map_many_times() -> None:
    assert 10 * sum(file.stat().st_size for file in FOLDER.glob("*.py")) < code.LIMIT
