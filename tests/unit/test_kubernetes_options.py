"""What `targets.kubernetes` of matcha.yaml may say, at the moment the file is loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from matcha import pythons
from matcha.api._project import open_project
from matcha.errors import StackFileError
from matcha.targets.kubernetes.options import KubernetesOptions

CASES = Path(__file__).parent / "cases" / "kubernetes"
S3, SQL = {"storage-secret": "keys"}, {"database-secret": "login"}
PASSWORD = "hunter2"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIhunter2\n-----END PRIVATE KEY-----\n"

# The key that is wrong and its value, what the error says of it, and the other keys.
BAD: list[tuple[str, Any, str, dict[str, Any]]] = [
    ("image", "", "an image's name, as in python:3.12-slim or registry.example.com/team/base:7", {}),
    ("image", "a b", "found 'a b'", {}),
    ("image", "Team/base:1", "found 'Team/base:1'", {}),
    ("image", "https://hub/python:3.12", "found 'https://hub/python:3.12'", {}),
    ("image", "python:3.12\n", r"found 'python:3.12\n'", {}),
    ("image", "python:2.7", "one with Python 3.10 to 3.13, found 'python:2.7'", {}),
    ("image", "hub/python:3.9-slim", "one with Python 3.10 to 3.13, found 'hub/python:3.9-slim'", {}),
    ("python", "2.7", "a Python in quotes, from \"3.10\" to \"3.13\", found '2.7'", {}),
    ("python", 3.12, 'a Python in quotes, from "3.10" to "3.13", found 3.12', {}),
    ("python", "3.11", "\"3.11\", and the image is of Python 3.12: 'python:3.12'", {"image": "python:3.12"}),
    ("registry-mirror", "http://mirror.example.com", "without http:// or https://", {}),
    ("registry-mirror", f"me:{PASSWORD}@mirror.example.com", "a registry's host", {}),
    ("registry-mirror", "mirror example", "found 'mirror example'", {}),
    ("ca-bundle", "none.pem", "cannot be read: No such file or directory", {}),
    ("ca-bundle", ".", "cannot be read: Is a directory", {}),
    ("ca-bundle", "notes.txt", "a file of certificates in PEM", {}),
    ("ca-bundle", "binary", "a file of certificates in PEM", {}),
    ("ca-bundle", "empty", "a file of certificates in PEM", {}),
    ("ca-bundle", "/dev/zero", "is a pipe or a device, not a file: /dev/zero", {}),
    ("ca-bundle", "pipe", "is a pipe or a device, not a file", {}),
    ("ca-bundle", "huge", "is larger than 4 MiB", {}),
    ("ca-bundle", "key.pem", "holds a private key", {}),
    ("ports", 80, "ports by service, as in {mlflow: 5001, mlserver/grpc: 8081}, found 80", {}),
    ("ports.mlflow", 80, "a port from 1024 to 65535; lower ones are the system's, found 80", {}),
    ("ports.mlflow", 70000, "found 70000", {}),
    ("ports.mlflow", "http", "found 'http'", {}),
    ("ports", {"mlflow": 5001, "zenml": 5001}, "ports gives 5001 to both mlflow and zenml", {}),
    ("namespace", "Team A", "lower-case letters, digits and dashes", {}),
    ("namespace", "a" * 64, "at most 63", {}),
    ("namespace", "", "found ''", {}),
    ("allow-from", "shop", "allow-from has to be a list of namespaces, as in [shop, web], found 'shop'", {}),
    ("storage-class", "Fast_SSD", "the name of a storage class, of lower-case letters", {}),
    ("pull-secret", "My Secret", "the name of a Secret of the namespace, of lower-case letters", {}),
    ("storage-secret", f"AKIA/{PASSWORD}", "the name of a Secret of the namespace", {"storage": "s3://b"}),
    ("database-secret", f"root:{PASSWORD}", "the name of a Secret of the namespace", {"database": "mysql://h"}),
    ("database-secret", f"{PASSWORD}-", "the name of a Secret of the namespace", {"database": "mysql://h"}),
    ("index-url", "pypi.example.com/simple", "a package index: https://host/simple", {}),
    ("index-url", "https://host:99999/simple", "a package index", {}),
    ("index-url", "https:///simple", "a package index", {}),
    ("index-url", f"https://me:{PASSWORD}@host/simple", "without credentials, found '***@host/simple'", {}),
    ("index-url", "https://ho st/simple", "a package index", {}),
    ("storage", "gs://bucket", "an S3 URL: s3://bucket/prefix", S3),
    ("storage", "s3://", "an S3 URL", S3),
    ("storage", "s3://my bucket", "an S3 URL", S3),
    ("storage", f"s3://key:{PASSWORD}@b", "without keys, found '***@b'", S3),
    ("storage", f"s3://b?endpoint=https://k:{PASSWORD}@h", "without keys, found '***@h'", S3),
    ("storage", "s3://b?endpoint=host:9000", "endpoint=https://host:9000", S3),
    ("storage", "s3://b?endpoint=s3.example.org", "endpoint=https://host:9000", S3),
    ("storage", "s3://b?regoin=x", "'regoin' means nothing", S3),
    ("storage", "s3://b?region=", "says region once", S3),
    ("storage", "s3://b?region=a&region=b", "says region once", S3),
    ("storage-secret", None, "storage needs storage-secret", {"storage": "s3://bucket"}),
    ("database", "postgres://host", "a MySQL server", SQL),
    ("database", "mysql://host:many", "a MySQL server", SQL),
    ("database", "mysql://host:0", "a MySQL server", SQL),
    ("database", "mysql://host/mlflow", "without a database", SQL),
    ("database", f"mysql://me:{PASSWORD}@host", "without credentials, found '***@host'", SQL),
    ("database", f"mysql://me:{PASSWORD}/x@host", "***@host", SQL),
    ("database", "mysql://host?tls=maybe", "tls=true or tls=false", SQL),
    ("database", "mysql://host?ssl=true", "'ssl' means nothing", SQL),
    ("database", "mysql://[::1", "a MySQL server", SQL),
    ("database-secret", None, "database needs database-secret", {"database": "mysql://host"}),
    ("storage-size", "12Q", "a number and its unit, as in 20Gi or 500Mi, found '12Q'", {}),
    ("storage-size", "20 Gi", "found '20 Gi'", {}),
    ("storage-size", 20, "found 20", {}),
    ("database-size", "0Gi", "at least 1Mi, as in 20Gi, found '0Gi'", {}),
    ("volume-size", "-1Gi", "a Kubernetes quantity", {}),
    ("volume-size", "20", "at least 1Mi, as in 20Gi, found '20'", {}),
    ("run-as", "root", "fixed or cluster, found 'root'", {}),
    ("context", 3, "expected `str`, got `int`", {}),
]  # fmt: skip

GOOD: list[dict[str, Any]] = [
    {"image": f"registry.example.com:5000/hub/python:3.11.4-slim@sha256:{'0a' * 32}", "python": "3.11"},
    {"image": "team/base:7", "python": "3.10"},
    {"image": "team/happy-3.1:7", "python": "3.12"},
    {"image": "team/base:py3.12-cuda", "python": "3.11"},
    {"image": "registry.corp/team/python:2024.11", "python": "3.12"},
    {"image": "corp/python:1.4", "python": "3.12"},
    {"image": "ghcr.io/team/py:2.0-slim", "python": "3.12"},
    {"image": "ghcr.io/team/py:3.9-slim", "python": "3.12"},
    {"image": "python", "registry-mirror": "localhost:5000/mirror/"},
    {"registry-mirror": "company", "pull-secret": "a.b-c", "storage-class": "gp3.csi.example.com"},
    {"storage": "s3://my-bucket/a/b?endpoint=https://[fd00::1]:9000&region=eu", **S3},
    {"database": "mysql://db_1.example.com.:3307?tls=true", **SQL},
    {"database": "mysql://[fd00::1]", **SQL},
    {"index-url": "http://pypi.example.com:8080/simple/"},
    {"storage-size": "0.5Gi", "database-size": "1048576", "ports": {"mlflow": 1024, "mlserver/grpc": 65535}},
    {"ca-bundle": str(CASES / "ca.pem")},
    {"ca-bundle": "commented.pem"},
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    certificate = (CASES / "ca.pem").read_text()
    (tmp_path / "notes.txt").write_text("Our certificates are on the intranet.\n")
    (tmp_path / "binary").write_bytes(b"\x30\x82\xff\xfe")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(1 << 32)
    (tmp_path / "key.pem").write_text(certificate + KEY)
    (tmp_path / "commented.pem").write_text(f"# Főtanúsítvány\n{certificate}", encoding="utf-8")
    return tmp_path


def write(project: Path, options: dict[str, Any]) -> int:
    """One key a line; how many lines stand before the first."""
    head = "target: kubernetes\ntargets:\n  kubernetes:\n"
    lines = [f"    {key}: {json.dumps(value)}\n" for key, value in options.items()]
    (project / "matcha.yaml").write_text(head + "".join(lines))
    return head.count("\n")


@pytest.mark.parametrize(("key", "value", "said", "more"), BAD, ids=[f"{b[0]}={b[1]!r}" for b in BAD])
def test_what_no_cluster_would_take_is_refused_as_the_file_is_read(
    project: Path, key: str, value: Any, said: str, more: dict[str, Any]
) -> None:
    name, _, inner = key.partition(".")
    written = {} if value is None else {name: {inner: value} if inner else value}
    line = write(project, {**more, **written}) + len(more) + bool(written)
    with pytest.raises(StackFileError) as refused:
        open_project(project, None)
    error = refused.value
    assert said in error.message
    assert error.message.startswith("matcha.yaml:3: " if value is None else f"matcha.yaml:{line}: ")
    assert error.details == f"At targets.kubernetes.{key}."
    assert error.resolution
    assert error.exit_code == 2
    assert PASSWORD not in f"{error.message} {error.details} {error.resolution}"


@pytest.mark.parametrize("options", GOOD, ids=[" ".join(g) for g in GOOD])
def test_what_a_cluster_takes_is_taken(project: Path, options: dict[str, Any]) -> None:
    write(project, options)
    assert open_project(project, None).stack.targets["kubernetes"] == options


def test_an_index_with_a_password_is_refused_with_what_to_do_instead(project: Path) -> None:
    write(project, {"index-url": f"https://me:{PASSWORD}@host/simple"})
    with pytest.raises(StackFileError) as refused:
        open_project(project, None)
    assert "an index that the cluster's pods read without a password" in refused.value.resolution


def test_the_pythons_that_may_be_named_are_those_that_matcha_supports() -> None:
    for minor in range(25):
        version = f"3.{minor}"
        try:
            msgspec.convert({"python": version, "image": "team/base:7"}, KubernetesOptions)
        except msgspec.ValidationError:
            assert version not in pythons.SUPPORTED
        else:
            assert version in pythons.SUPPORTED


def test_an_item_of_a_list_is_refused_in_the_words_of_the_option_and_with_its_place(project: Path) -> None:
    write(project, {"allow-from": ["shop", "Shop_1"]})
    with pytest.raises(StackFileError, match="each of allow-from has to be a name of lower-case") as refused:
        open_project(project, None)
    assert refused.value.message.endswith("found 'Shop_1'")
    assert refused.value.details == "At targets.kubernetes.allow-from.1."
