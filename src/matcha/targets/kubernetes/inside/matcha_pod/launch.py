"""Completes the database addresses of a service and becomes its command.

    python -I launch.py ARGUMENTS OF PYTHON...

Kubernetes puts a secret into a variable as it is; inside an address it has to be quoted. So arguments and
variables say `<MATCHA_DATABASE_...>` where the value of that variable belongs, and the process that this one
becomes has whole addresses and none of these variables.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

PREFIX = "MATCHA_DATABASE_"
MARK = re.compile(rf"<({PREFIX}\w+)>")
AUTHORITIES = f"{PREFIX}CA"  # the file of certificates that a database's own is checked by
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def completed(text: str, values: Mapping[str, str]) -> str:
    """Raises KeyError, with its name, for a variable that is not there."""
    return MARK.sub(lambda found: quote(values[found[1]], safe="", errors="surrogateescape"), text)


def authorities(environ: Mapping[str, str]) -> dict[str, str]:
    """The variable that names them; none where the image has no such file."""
    files = (environ.get("SSL_CERT_FILE") or "", *BUNDLES)
    return next(({AUTHORITIES: file} for file in files if file and Path(file).is_file()), {})


def main(arguments: list[str]) -> None:
    values = authorities(os.environ) | {n: v for n, v in os.environ.items() if n.startswith(PREFIX)}
    others = {n: v for n, v in os.environ.items() if not n.startswith(PREFIX)}
    try:
        environ = {name: completed(value, values) for name, value in others.items()}
        command = [sys.executable, *(completed(each, values) for each in arguments)]
    except KeyError as error:
        name = error.args[0]
        advice = "name a ca-bundle in matcha.yaml" if name == AUTHORITIES else "the service names it"
        sys.exit(f"There is no {name} here: {advice}.")
    os.execve(sys.executable, command, environ)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
