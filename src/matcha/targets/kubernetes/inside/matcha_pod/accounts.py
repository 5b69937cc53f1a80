"""Before every start of the object store's server (versitygw): its bucket, and an account for jobs. No part
of the package.

    python accounts.py BUCKET_FOLDER ACCOUNTS_FOLDER POLICY

The account's keys are in the environment. POLICY says what it may do, with WHO where its access key belongs.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

WHO = "{jobs}"
ACCESS_KEY, SECRET_KEY = "JOBS_ACCESS_KEY", "JOBS_SECRET_KEY"  # variables
USERS = "users.json"  # the server's file of accounts
POLICY = "user.policy"  # the attribute of a bucket's folder in which it keeps the bucket's policy
# And its access control list. Of a bucket without one, whoever is not root can copy nothing (v1.8.0).
ACL, NOBODY = "user.acl", b"{}"
FULL = (errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    bucket, accounts, policy = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    bucket.mkdir(parents=True, exist_ok=True)
    access = os.environ[ACCESS_KEY]
    account = {"access": access, "secret": os.environ[SECRET_KEY], "role": "user"}
    _write(accounts, json.dumps({"accessAccounts": {access: account}}))
    try:
        _open(bucket, policy.replace(WHO, access).encode())
    except OSError as error:
        if error.errno not in FULL:
            sys.exit(f"The volume does not take the attributes of files that the object store needs: {error}")
        # Whoever makes room needs the store. Until its next start, jobs may do what they might, or nothing.
        print("The volume is full: what jobs may do with it was not put down.", file=sys.stderr, flush=True)


def _write(accounts: Path, text: str) -> None:
    fresh = accounts / f"{USERS}.new"
    fresh.touch(mode=0o600)
    fresh.write_text(text, encoding="utf-8")
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
