"""Builds this folder without any other package: no test has to fetch one for it."""

import zipfile
from pathlib import Path

INFO = {
    "METADATA": "Metadata-Version: 2.1\nName: own\nVersion: 1.0\nRequires-Dist: humanize\n",
    "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "RECORD": "own.py,,\n",
}


def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "own-1.0-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder, name), "w") as wheel:
        wheel.write("own.py")
        for file, text in INFO.items():
            wheel.writestr(f"own-1.0.dist-info/{file}", text)
    return name
