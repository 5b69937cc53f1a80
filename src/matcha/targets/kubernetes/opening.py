"""What of the object store is open to jobs, whose account has no rights but by the policy of the bucket. Pure
but for a read of a package file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from matcha.targets.kubernetes.code import POD_CODE
from matcha.targets.kubernetes.inside.matcha_pod.accounts import WHO


def program() -> str:
    """What puts it there. As text: mounted with the pods' other code, every edit of that would have the
    store start anew.
    """
    return (POD_CODE / "matcha_pod" / "accounts.py").read_text(encoding="utf-8")


def policy(bucket: str, areas: Iterable[str]) -> str:
    """Jobs read environments and code, ask whoever follows them, and have the `areas` for themselves. What
    is not allowed here, they may not. It has to fit into an attribute of a folder: 4 KB on many volumes.
    """
    below = [f"{area}/*" for area in sorted(areas)]
    statements = [
        _allow(["GetObject"], bucket, ["environments/*", "jobs/*"]),
        _allow(["PutObject", "DeleteObject"], bucket, ["jobs/relay/*"]),
        _allow(["GetBucketLocation", "GetBucketVersioning"], bucket),  # clients look before they write
    ]
    if below:
        tops = [each.removesuffix("/*") for each in below]  # clients ask whether there is an object, too
        changes = ["PutObject", "DeleteObject", "AbortMultipartUpload", "ListMultipartUploadParts"]
        statements += [
            _allow(["GetObject"], bucket, [*tops, *below]),
            _allow(changes, bucket, below),
            {**_allow(["ListBucket"], bucket), "Condition": {"StringLike": {"s3:prefix": below}}},
        ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def _allow(actions: Iterable[str], bucket: str, keys: Iterable[str] = ()) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Principal": {"AWS": [WHO]},
        "Action": [f"s3:{each}" for each in actions],
        "Resource": [f"arn:aws:s3:::{bucket}/{key}" for key in keys] or [f"arn:aws:s3:::{bucket}"],
    }
