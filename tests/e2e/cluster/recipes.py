"""What is in the images: a function makes the files of a layer, IMAGES stacks layers under official names."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
ROOTFS = HERE / "rootfs"
COMPONENTS = ROOT / "src/matcha/components"
VENV = "/opt/venv"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOTSTRAP = [
    "mmdebstrap",
    "--quiet",
    "--mode=root",
    "--variant=minbase",
    "--format=directory",
    *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "info", "locale")),
]


@dataclass(frozen=True)
class Layer:
    """`make` fills a folder; with a base, it gets that layer's archive too. A change of its source, of that
    of the functions in `uses`, or of the inputs makes the layer anew."""

    make: Callable[..., None]
    uses: tuple[Callable[..., None], ...] = ()
    inputs: tuple[Path, ...] = ()
    base: "Layer | None" = None

    @property
    def name(self) -> str:
        return self.make.__name__


@dataclass(frozen=True)
class Image:
    reference: str
    layers: tuple[Layer, ...]
    config: dict[str, object] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)


@cache
def programs() -> Path:
    return Path(os.environ.get("BIN") or subprocess.check_output([HERE / "build"], text=True).strip())


def python(tree: Path) -> None:
    """Debian's Python 3.11 under the name `python`, with pip and venv."""
    run(*BOOTSTRAP, "--include=python3,python3-pip,python3-venv,ca-certificates", "bookworm", tree)
    for name in ("python", "python3"):
        (tree / "usr/local/bin" / name).symlink_to("/usr/bin/python3")
    for note in tree.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        note.unlink()


def entrypoint(tree: Path, name: str) -> None:
    target = tree / "usr/local/bin/docker-entrypoint.sh"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOTFS / name, target)
    target.chmod(0o755)


def install(tree: Path, component: str, base: Path) -> None:
    """A component's lock and what its official image has besides, in a virtual environment of the base."""
    candidates = (ROOT / ".venv/bin/uv", shutil.which("uv"))
    uv = next((path for path in candidates if path and os.access(path, os.X_OK)), None)
    if uv is None:
        sys.exit("images: needs uv on PATH, or in .venv, where ./test puts it")
    with tempfile.TemporaryDirectory(dir=tree.parent) as work:
        run("tar", "--extract", "--preserve-permissions", "--directory", work, "--file", base)
        venv = Path(work) / VENV[1:]
        packages = venv / "lib/python3.11/site-packages"
        (venv / "bin").mkdir(parents=True)
        (venv / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
        for name in ("python", "python3"):
            (venv / "bin" / name).symlink_to("/usr/bin/python3")
        run(
            *(uv, "pip", "install", "--quiet", "--python-version", "3.11", "--target", packages),
            *("--link-mode", "copy", "--requirement", COMPONENTS / component / "requirements.lock"),
            *("--requirement", ROOTFS / f"{component}.txt"),
        )
        for script in (packages / "bin").iterdir():
            shebang = f"#!{VENV}/bin/python\n".encode()
            target = venv / "bin" / script.name
            target.write_bytes(re.sub(rb"\A#!.*python.*\n", shebang, script.read_bytes()))
            target.chmod(0o755)
        shutil.rmtree(packages / "bin")
        # bytecode by the base's own Python: what `pip install` makes in the official images
        run("chroot", work, VENV + "/bin/python", "-m", "compileall", "-q", VENV + "/lib")
        (tree / "opt").mkdir()
        venv.rename(tree / VENV[1:])


def mlflow(tree: Path, base: Path) -> None:
    install(tree, "mlflow", base)


def zenml(tree: Path, base: Path) -> None:
    install(tree, "zenml", base)
    home = tree / "zenml/.zenconfig/local_stores/default_zen_store"
    home.mkdir(parents=True)
    for folder in (home, *list(home.parents)[:3]):
        os.chown(folder, 1000, 1000)
    (tree / "entrypoint.sh").write_text('#!/bin/sh\nexec "$@"\n')
    (tree / "entrypoint.sh").chmod(0o755)


def mysql(tree: Path) -> None:
    """Debian's MariaDB with the user, the folders and the entry point of the official MySQL image."""
    user = 'useradd --root "$1" --uid 999 --user-group --home-dir /var/lib/mysql --shell /bin/false mysql'
    run(*BOOTSTRAP, f"--essential-hook={user}", "--include=mariadb-server", "bookworm", tree)
    shutil.rmtree(tree / "var/lib/mysql")
    for folder in ("var/lib/mysql", "run/mysqld"):
        (tree / folder).mkdir(exist_ok=True)
        (tree / folder).chmod(0o1777)
        os.chown(tree / folder, 999, 999)
    shutil.copy(ROOTFS / "mysql.cnf", tree / "etc/mysql/mariadb.conf.d/99-matcha.cnf")
    entrypoint(tree, "mysql-entrypoint")


def pause(tree: Path) -> None:
    shutil.copy(programs() / "pause", tree / "pause")


def versitygw(tree: Path) -> None:
    entrypoint(tree, "versitygw-entrypoint")
    shutil.copy(programs() / "versitygw", tree / "usr/local/bin/versitygw")


def locked(component: str) -> Layer:
    pins = (COMPONENTS / component / "requirements.lock", ROOTFS / f"{component}.txt")
    return Layer({"mlflow": mlflow, "zenml": zenml}[component], (install,), pins, PYTHON)


def version(component: str) -> str:
    lock = (COMPONENTS / component / "requirements.lock").read_text()
    return re.search(rf"^{component}==(\S+)", lock, re.MULTILINE)[1]  # type: ignore[index]


def pinned(name: str) -> str:
    return re.search(rf"^{name}=(\S+)", (HERE / "versions").read_text(), re.MULTILINE)[1]  # type: ignore[index]


def official(module: str, name: str) -> str:
    """The image that the target pins there."""
    text = (ROOT / "src/matcha/targets/kubernetes" / module).read_text()
    found = re.search(rf'^ *{name} = "(\S+)"', text, re.MULTILINE)[1]  # type: ignore[index]
    return f"docker.io/library/{found}"


PYTHON = Layer(python)
ENVIRONMENT = {"PATH": f"{VENV}/bin:{PATH}", "VIRTUAL_ENV": VENV}
ENTRYPOINT = "/usr/local/bin/docker-entrypoint.sh"
SERVER = (
    "uvicorn zenml.zen_server.zen_server_api:app --no-server-header --proxy-headers --forwarded-allow-ips * "
    "--port 8080 --host 0.0.0.0"
)

IMAGES = {
    "pause": Image(
        "localhost/pause:1",
        (Layer(pause, inputs=(HERE / "go/cmd/pause/main.go",)),),
        {"Entrypoint": ["/pause"]},
    ),
    "python": Image(
        "docker.io/library/python:3.11-slim-bookworm",
        (PYTHON,),
        {"Cmd": ["python3"]},
        aliases=(official("options.py", "image: Image"),),
    ),
    "mlflow": Image(
        f"ghcr.io/mlflow/mlflow:v{version('mlflow')}-full",
        (PYTHON, locked("mlflow")),
        {"Cmd": ["python3"], "Env": ENVIRONMENT},
    ),
    "zenml": Image(
        f"docker.io/zenmldocker/zenml-server:{version('zenml')}",
        (PYTHON, locked("zenml")),
        {
            "User": "1000:1000",
            "WorkingDir": "/zenml",
            "Entrypoint": ["/entrypoint.sh"],
            "Cmd": SERVER.split(),
            "Env": {**ENVIRONMENT, "ZENML_CONTAINER": "1", "ZENML_CONFIG_PATH": "/zenml/.zenconfig"},
        },
    ),
    "mysql": Image(
        "docker.io/library/mysql:8.4",
        (Layer(mysql, (entrypoint,), inputs=(ROOTFS / "mysql.cnf", ROOTFS / "mysql-entrypoint")),),
        {"Entrypoint": [ENTRYPOINT], "Cmd": ["mysqld"]},
        aliases=(official("foundations.py", "DATABASE_IMAGE"),),
    ),
    "versitygw": Image(
        f"ghcr.io/versity/versitygw:{pinned('VERSITYGW')}",
        (
            PYTHON,
            Layer(versitygw, (entrypoint,), inputs=(HERE / "versions", ROOTFS / "versitygw-entrypoint")),
        ),
        {"Entrypoint": [ENTRYPOINT]},
        aliases=(f"docker.io/versity/versitygw:{pinned('VERSITYGW')}",),
    ),
}
