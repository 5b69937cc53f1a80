"""`python -m matcha.cli`: the command line where the `matcha` script is not on PATH."""

from matcha.cli.main import run

run()
