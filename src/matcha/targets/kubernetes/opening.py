"""The keys of the object store that jobs have: an account of its own, and what of the bucket it opens.

The store's server knows no rights by account, but a policy of the bucket, an extended attribute of its folder.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

POLICY = "user.policy"  # the attribute in which versitygw keeps the policy of a bucket
# And its access control list. Of a bucket without one, whoever is not root can copy nothing (v1.8.0).
ACL, NOBODY = "user.acl", b"{}"
USERS = "users.json"  # its file of accounts
WHO = "{jobs}"  # in a policy: the access key
ACCESS_KEY, SECRET_KEY = "JOBS_ACCESS_KEY", "JOBS_SECRET_KEY"  # variables
FULL = (errno.ENOSPC, errno.EDQUOT)


def program() -> str:
    """This file, which needs nothing but Python, for `python -c`."""
    return Path(__file__).read_text(encoding="utf-8")


def policy(bucket: str, areas: Iterable[str]) -> str:
    """Jobs read environments and code, ask whoever follows them, and have the `areas` for themselves. What
    is not allowed here, they may not.
    """
    areas = sorted(areas)
    below = [f"{area}/*" for area in areas]
    statements = [
        _allow(["s3:GetObject"], bucket, ["environments/*", "jobs/*"]),
        _allow(["s3:PutObject", "s3:DeleteObject"], bucket, ["jobs/relay/*"]),
        _allow(["s3:GetBucketLocation", "s3:GetBucketVersioning"], bucket),  # clients look before they write
    ]
    if areas:
        change = ["PutObject", "DeleteObject", "AbortMultipartUpload", "ListMultipartUploadParts"]
        prefixes = {"StringLike": {"s3:prefix": below}}
        statements += [
            _allow(["s3:GetObject"], bucket, [*areas, *below]),  # whether there is an object where a folder is
            _allow([f"s3:{each}" for each in change], bucket, below),
            {**_allow(["s3:ListBucket"], bucket), "Condition": prefixes},
        ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def _allow(actions: list[str], bucket: str, keys: Iterable[str] = ()) -> dict[str, Any]:
    where = [f"arn:aws:s3:::{bucket}/{key}" for key in keys] or [f"arn:aws:s3:::{bucket}"]
    return {"Effect": "Allow", "Principal": {"AWS": [WHO]}, "Action": actions, "Resource": where}


def main() -> None:
    """Arguments: the bucket's folder, which is made; the folder of accounts; the policy."""
    bucket, accounts, opened = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    bucket.mkdir(parents=True, exist_ok=True)
    access = os.environ[ACCESS_KEY]
    account = {"access": access, "secret": os.environ[SECRET_KEY], "role": "user"}
    _write(accounts, json.dumps({"accessAccounts": {access: account}}))
    try:
        _open(bucket, opened.replace(WHO, access).encode())
    except OSError as error:
        if error.errno not in FULL:
            sys.exit(f"The object store's volume does not take what its server keeps there: {error}")
        # Who wants to make room needs the store. Until its next start jobs may do what they might, or nothing.
        print("The volume is full: what jobs may do in it was not written down.", flush=True)


def _write(accounts: Path, text: str) -> None:
    fresh = accounts / f"{USERS}.new"
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(accounts / USERS)


def _open(bucket: Path, policy: bytes) -> None:
    if _attribute(bucket, ACL) is None:
        os.setxattr(bucket, ACL, NOBODY)
    if _attribute(bucket, POLICY) != policy:
        os.setxattr(bucket, POLICY, policy)


def _attribute(bucket: Path, name: str) -> bytes | None:
    try:
        return os.getxattr(bucket, name)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return None


if __name__ == "__main__":
    main()
