# Shared by the entry scripts: a virtual environment from nothing but Python 3.10 or newer.
# Sets VENV and UV. Needs no root; installs nothing outside the checkout but uv's download cache.

find_python() {
  for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Matcha needs Python 3.10 to 3.13; none was found on PATH." >&2
  exit 1
}

# Python $1 (as 3.10), of PATH or of pyenv (whose shims fail for versions that are not active); nothing where there
# is none.
find_version() {
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
    if "$candidate" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' "$1" 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

# Makes $1 a virtual environment with uv inside. Where the system's Python has no venv or pip (Debian's bare
# python3), a uv on PATH does it.
make_venv() {
  VENV=$1
  PYTHON=$(find_python) || exit
  if [ ! -x "$VENV/bin/uv" ]; then
    if "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null; then
      "$PYTHON" -m venv "$VENV"
      "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "uv>=0.9"
    elif command -v uv >/dev/null 2>&1; then
      uv venv --quiet --python "$PYTHON" "$VENV"
      uv pip install --quiet --python "$VENV/bin/python" "uv>=0.9"
    else
      echo "This Python has no venv module. Install it (Debian: apt-get install python3-venv), or uv." >&2
      exit 1
    fi
  fi
  UV=$VENV/bin/uv
}
