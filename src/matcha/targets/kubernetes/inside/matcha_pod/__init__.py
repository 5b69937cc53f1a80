"""Runs in pods, with nothing but Python's standard library: environment archives and the object store.

    python -m matcha_pod bucket  --at s3://BUCKET
    python -m matcha_pod build   --lock FILE --path ENV --to s3://BUCKET/KEY.tar.gz [--python ">=3.10,<3.13"]
    python -m matcha_pod unpack  --from s3://BUCKET/KEY.tar.gz --path ENV
    python -m matcha_pod extract --from s3://BUCKET/KEY.tar.gz --path FOLDER
    python -m matcha_pod upload  --from FILE --to s3://BUCKET/KEY [--keep N] [--ends-with TEXT]
    python -m matcha_pod probe   --at s3://BUCKET/PREFIX
    python -m matcha_pod delete  --at s3://BUCKET/PREFIX/

Services with a database are started by `launch.py`, and the object store after `accounts.py`, which are no
part of the package.

`build` and `unpack` put the kind of machine they run on, such as x86_64 or aarch64, where `{machine}` stands.

Needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; AWS_ENDPOINT_URL, AWS_REGION, AWS_SESSION_TOKEN and
SSL_CERT_FILE as other S3 clients have them. Every command has a `--deadline` in seconds. The last line of
a command that fails says why in plain words, and stands in the container's termination message too; exit
codes are in `ending.py`. The folder travels in a ConfigMap, so it stays small.
"""
