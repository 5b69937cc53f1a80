"""The database server's first start, which may be cut short at any moment. Pure.

The official image takes a data folder that holds a `mysql` folder for one that is set up: one that was left
half-made has a root without a password for ever, and nobody gets in from outside. A mark beside the folder,
made before the first file and taken away by the last script of the image's own setup, says that there is
nothing in it yet; what bears it is emptied. A folder without the mark, or with a database that is not
the server's own, is never touched.
"""

from __future__ import annotations

from lightkube.models.core_v1 import Volume, VolumeMount
from lightkube.resources.core_v1 import ConfigMap

from matcha.targets.kubernetes import code
from matcha.targets.kubernetes.names import DATABASE

NAME = f"{DATABASE}-first-start"
DATA = "/var/lib/mysql"
MARKS = "/matcha/first-start"
SCRIPTS = "/docker-entrypoint-initdb.d"  # run in order of their names, in a folder that is new only

# Also when only the container is started again, for which init containers do not run.
BEGIN = f"""set -eu
data={DATA} mark={MARKS}/begun
theirs=
for found in "$data"/*/; do
  case "${{found#"$data"/}}" in
    mysql/ | performance_schema/ | sys/ | '#'* | '*/') ;;
    *) theirs=yes ;;
  esac
done
if [ -z "$(ls -A "$data")" ]; then
  touch "$mark"
  sync "$mark" "{MARKS}" || true
elif [ -e "$mark" ] && [ -z "$theirs" ]; then
  echo "matcha: the first start of this server was cut short; making its data folder anew"
  find "$data" -mindepth 1 -delete
else
  rm -f "$mark"
fi
exec docker-entrypoint.sh mysqld "$@"
"""
DONE = f"""rm -f {MARKS}/begun
sync {MARKS} || true
"""


def command() -> list[str]:
    """The image's own entry point, behind the look at its data folder; mysqld's options follow."""
    return ["sh", "-c", BEGIN, "mysqld"]


def scripts() -> ConfigMap:
    return code.texts(NAME, DATABASE, DATABASE, {"zz-done.sh": DONE})


def volumes() -> list[Volume]:
    return [code.volume("first-start", NAME, {"zz-done.sh": DONE})]


def mounts() -> list[VolumeMount]:
    """Folders of the volume: its root may hold lost+found, and MySQL starts in an empty one only."""
    return [
        VolumeMount(name="data", mountPath=DATA, subPath="mysql"),
        VolumeMount(name="data", mountPath=MARKS, subPath="first-start"),
        code.mount("first-start", SCRIPTS),
    ]
