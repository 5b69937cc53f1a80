"""AWS Signature Version 4 for S3, in headers. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote

ALGORITHM = "AWS4-HMAC-SHA256"


class Credentials(NamedTuple):
    """`token` only with temporary keys."""

    access_key: str
    secret_key: str
    token: str = ""

    def __repr__(self) -> str:
        return f"Credentials({self.access_key!r})"  # never the secrets


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def encoded_path(path: str) -> str:
    return quote(path, safe="/-_.~")


def encoded_query(query: Mapping[str, str]) -> str:
    return "&".join(f"{name}={value}" for name, value in sorted(map(_encoded, query.items())))


def _encoded(item: tuple[str, str]) -> tuple[str, str]:
    return quote(item[0], safe="-_.~"), quote(item[1], safe="-_.~")


def signed(
    method: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body_hash: str,
    *,
    credentials: Credentials,
    region: str,
    now: datetime,
) -> dict[str, str]:
    """`headers`, which name the host, with those of the signature. `path` is not encoded; `now` is UTC."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    whole = {**headers, "x-amz-content-sha256": body_hash, "x-amz-date": stamp}
    if credentials.token:
        whole["x-amz-security-token"] = credentials.token
    canonical = {name.lower(): " ".join(value.split()) for name, value in sorted(whole.items(), key=_lower)}
    names = ";".join(canonical)
    lines = [method, encoded_path(path), encoded_query(query)]
    lines += [*(f"{name}:{value}" for name, value in canonical.items()), "", names, body_hash]
    to_sign = "\n".join([ALGORITHM, stamp, scope, sha256("\n".join(lines).encode())])
    signature = hmac.new(_key(credentials, region, stamp[:8]), to_sign.encode(), hashlib.sha256).hexdigest()
    proof = f"Credential={credentials.access_key}/{scope},SignedHeaders={names},Signature={signature}"
    return {**whole, "Authorization": f"{ALGORITHM} {proof}"}


def _lower(item: tuple[str, str]) -> str:
    return item[0].lower()


def _key(credentials: Credentials, region: str, day: str) -> bytes:
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
