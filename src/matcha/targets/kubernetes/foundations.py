"""What a stack in a cluster stands on: a namespace, an object store, a database server. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from lightkube.models.batch_v1 import CronJobSpec, JobTemplateSpec
from lightkube.models.core_v1 import (
    Container,
    ContainerPort,
    EmptyDirVolumeSource,
    ExecAction,
    HTTPGetAction,
    PodTemplateSpec,
    Probe,
    Volume,
)
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.batch_v1 import CronJob, Job
from lightkube.resources.core_v1 import Namespace

from matcha.service import Resources, digest_of
from matcha.targets.kubernetes import archives, code, first_start, opening
from matcha.targets.kubernetes.compare import amount
from matcha.targets.kubernetes.inside.matcha_pod import accounts
from matcha.targets.kubernetes.names import DATABASE, JOB, MANAGER, STORE, labels, put_instance
from matcha.targets.kubernetes.network import DATABASE_DUMP, DATABASE_SETUP, policies
from matcha.targets.kubernetes.pod import (
    DISK_LIMIT,
    FINAL,
    LOCKED,
    SCRATCH,
    account,
    at,
    claim,
    claimed,
    empty,
    job,
    resources,
    secret_variable,
    storage_variables,
    template,
    variable,
)
from matcha.targets.kubernetes.resolve import DATABASE_PORT, password_variable
from matcha.targets.kubernetes.setting import (
    ACCESS_KEY,
    BUCKET,
    JOBS_ACCESS_KEY,
    JOBS_SECRET_KEY,
    SECRET_KEY,
    STORE_PORT,
    Setting,
)
from matcha.targets.kubernetes.workloads import database_key, disruption, reachable, stateful

STORE_IMAGE = "ghcr.io/versity/versitygw:v1.8.0"
DATABASE_IMAGE = "mysql:8.4.10"
DATABASE_USER = 999  # mysql, in its official image
ROOT_PASSWORD = "database-root"  # noqa: S105 - the name of a secret
NETWORK = "network"
ACCOUNTS = "/accounts"  # of the object store, besides its root; made with every pod
NIGHTLY = "17 3 * * *"
DUMPS_KEPT = 14
DUMP_ENDS = "-- Dump completed"  # a dump that was cut short does not, and must not push out a whole one
Objects = Iterator[Any]


def namespace(name: str) -> Namespace:
    """With the strictest Pod Security level, which everything of the stack keeps."""
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    made = Namespace(metadata=ObjectMeta(name=name, labels={**labels(name, MANAGER), **level}))
    put_instance([made], name)
    return made


def databases(setting: Setting) -> list[str]:
    return sorted({d.name for s in setting.services for d in s.databases})


def secret_names(setting: Setting) -> list[str]:
    """What has to be generated for the foundations."""
    keys = [ACCESS_KEY, SECRET_KEY, JOBS_ACCESS_KEY, JOBS_SECRET_KEY] if setting.storage.own else []
    own = [ROOT_PASSWORD, *map(database_key, databases(setting))] if needs_database(setting) else []
    return [*keys, *own]


def needs_database(setting: Setting) -> bool:
    return setting.own_database and bool(databases(setting))


def network(setting: Setting) -> Objects:
    """Who may talk to whom, whom pods trust, and as whom jobs run: there before any pod is."""
    yield from policies(setting)
    yield account(JOB, MANAGER)
    yield code.folder_map(code.POD_CODE)
    if setting.trust:
        yield code.texts(archives.TRUST, archives.TRUST, MANAGER, {archives.TRUST_NAME: setting.trust})


# -- the object store ------------------------------------------------------------------------------------


def object_store(setting: Setting) -> Objects:
    yield account(STORE, STORE)
    yield claim(setting, STORE, STORE, STORE, setting.options.storage_size)
    yield reachable(STORE, STORE, {"http": (STORE_PORT, "http")})
    yield disruption(STORE, STORE)
    pods = template(
        setting,
        STORE,
        STORE,
        [_store_container(setting)],
        init=[_bucket(setting)],
        volumes=[
            claimed("data", STORE),
            Volume(name="accounts", emptyDir=EmptyDirVolumeSource(medium="Memory", sizeLimit="1Mi")),
        ],
        version=(version := archives.image_version(STORE_IMAGE)),
    )
    yield stateful(ObjectMeta(name=STORE, labels=labels(STORE, STORE, version)), STORE, pods)


def _bucket(setting: Setting) -> Container:
    """A folder at the top of the volume is a bucket. Says what of it jobs may use, by which keys."""
    return Container(
        name="bucket",
        image=setting.base_image,
        command=["python", "-c", opening.program()],
        args=[f"/data/{BUCKET}", ACCOUNTS, opening.policy(BUCKET, setting.lent)],
        env=[
            secret_variable(accounts.ACCESS_KEY, JOBS_ACCESS_KEY),
            secret_variable(accounts.SECRET_KEY, JOBS_SECRET_KEY),
        ],
        resources=resources(Resources(cpu=0.05, memory=32)),
        volumeMounts=[at("data", "/data"), at("accounts", ACCOUNTS)],
        terminationMessagePolicy="FallbackToLogsOnError",
        securityContext=LOCKED,
    )


def _store_container(setting: Setting) -> Container:
    return Container(
        name=STORE,
        image=setting.image(STORE_IMAGE),
        args=[
            *("--port", f":{STORE_PORT}", "--health", "/health", "--iam-dir", ACCOUNTS),
            *("posix", "/data"),
        ],
        env=[
            secret_variable("ROOT_ACCESS_KEY", ACCESS_KEY),
            secret_variable("ROOT_SECRET_KEY", SECRET_KEY),
        ],
        ports=[ContainerPort(name="http", containerPort=STORE_PORT, protocol="TCP")],
        resources=resources(Resources(cpu=0.1, memory=128)),
        startupProbe=_health(failures=120),
        readinessProbe=_health(failures=2),
        livenessProbe=_health(failures=8),
        volumeMounts=[SCRATCH[1], at("data", "/data"), at("accounts", ACCOUNTS)],
        terminationMessagePolicy="FallbackToLogsOnError",
        securityContext=LOCKED,
    )


def _health(*, failures: int) -> Probe:
    get = HTTPGetAction(path="/health", port=STORE_PORT, scheme="HTTP")
    return Probe(httpGet=get, periodSeconds=3, timeoutSeconds=3, failureThreshold=failures)


def _pinged(*, failures: int) -> Probe:
    """By its own client: MySQL counts a connection that says nothing as an attack. Over TCP, where a server
    that is making its first database does not listen yet. Who may not log in is answered, too.
    """
    command = ["mysqladmin", "--host=127.0.0.1", "--user=probe", "--connect-timeout=3", "ping"]
    return Probe(
        exec=ExecAction(command=command), periodSeconds=3, timeoutSeconds=5, failureThreshold=failures
    )


# -- the database server ---------------------------------------------------------------------------------


def database(setting: Setting) -> Objects:
    yield account(DATABASE, DATABASE)
    yield claim(setting, DATABASE, DATABASE, DATABASE, setting.options.database_size)
    yield first_start.scripts()
    yield reachable(DATABASE, DATABASE, {"mysql": (DATABASE_PORT, "tcp")})
    yield disruption(DATABASE, DATABASE)
    pods = template(
        setting,
        DATABASE,
        DATABASE,
        [_database_container(setting)],
        volumes=[claimed("data", DATABASE), empty("run"), *first_start.volumes()],
        grace=60,
        user=DATABASE_USER,
        version=(version := archives.image_version(DATABASE_IMAGE)),
    )
    yield stateful(ObjectMeta(name=DATABASE, labels=labels(DATABASE, DATABASE, version)), DATABASE, pods)


def _database_container(setting: Setting) -> Container:
    """Durable, and sized for the few connections of a stack. Nobody follows it: a log of its changes, which
    MySQL keeps for a month by default, would only fill the volume.
    """
    return Container(
        name=DATABASE,
        image=setting.image(DATABASE_IMAGE),
        command=first_start.command(),
        args=[
            "--skip-name-resolve",
            "--skip-log-bin",
            "--performance-schema=OFF",
            "--innodb-buffer-pool-size=128M",
        ],
        env=[secret_variable("MYSQL_ROOT_PASSWORD", ROOT_PASSWORD)],
        ports=[ContainerPort(name="mysql", containerPort=DATABASE_PORT, protocol="TCP")],
        resources=resources(Resources(cpu=0.25, memory=512)),
        startupProbe=_pinged(failures=120),
        readinessProbe=_pinged(failures=2),
        livenessProbe=_pinged(failures=8),
        volumeMounts=[SCRATCH[1], at("run", "/var/run/mysqld"), *first_start.mounts()],
        terminationMessagePolicy="FallbackToLogsOnError",
        securityContext=LOCKED,
    )


def database_setup(setting: Setting) -> Objects:
    """Makes each database and its user; the same again does no harm."""
    names = databases(setting)
    script = _setup_script(names)
    name = f"{DATABASE_SETUP}-{setup_digest(setting)[:8]}"
    version = archives.image_version(DATABASE_IMAGE)
    yield account(DATABASE_SETUP, DATABASE)
    yield Job(
        metadata=ObjectMeta(name=name, labels=labels(DATABASE_SETUP, DATABASE, version)),
        spec=job(
            template(
                setting,
                DATABASE_SETUP,
                DATABASE,
                [_client(setting, DATABASE_SETUP, script, names)],
                user=DATABASE_USER,
                restart="Never",
                version=version,
            ),
            tries=4,
            seconds=600,
        ),
    )


def setup_digest(setting: Setting) -> str:
    return digest_of(_setup_script(databases(setting)))


def _setup_script(names: Sequence[str]) -> str:
    lines = [
        f"CREATE DATABASE IF NOT EXISTS `{n}` CHARACTER SET utf8mb4;\n"
        f"CREATE USER IF NOT EXISTS '{n}'@'%' IDENTIFIED BY '${{{password_variable(n)}}}';\n"
        f"ALTER USER '{n}'@'%' IDENTIFIED BY '${{{password_variable(n)}}}';\n"
        f"GRANT ALL ON `{n}`.* TO '{n}'@'%';"
        for n in names
    ]
    statements = "\n".join(lines).replace("`", "\\`")
    # For whoever applies the manifests all at once. The server is asked for no more than an answer.
    there = f"until mysqladmin -h {DATABASE} -u root --connect-timeout=3 ping; do sleep 2; done"
    return f"set -eu\n{there}\nmysql -h {DATABASE} -u root <<END\n{statements}\nEND\n"


def _client(
    setting: Setting, name: str, script: str, names: Sequence[str], disk_limit: str = DISK_LIMIT
) -> Container:
    return Container(
        name=name,
        image=setting.image(DATABASE_IMAGE),
        command=["sh", "-c", script],
        env=[
            secret_variable("MYSQL_PWD", ROOT_PASSWORD),
            *(secret_variable(password_variable(n), database_key(n)) for n in names),
        ],
        resources=resources(Resources(cpu=0.05, memory=128), disk_limit=disk_limit),
        volumeMounts=[SCRATCH[1]],
        terminationMessagePolicy="FallbackToLogsOnError",
        securityContext=LOCKED,
    )


def database_dump(setting: Setting) -> Objects:
    """Every night a dump of all databases into the object store."""
    yield account(DATABASE_DUMP, DATABASE)
    yield code.folder_map(code.POD_CODE)
    marks = labels(DATABASE_DUMP, DATABASE, archives.image_version(DATABASE_IMAGE))
    yield CronJob(
        metadata=ObjectMeta(name=DATABASE_DUMP, labels=marks),
        spec=CronJobSpec(
            schedule=NIGHTLY,
            suspend=False,  # said, so that a start takes back what a stop did
            concurrencyPolicy="Forbid",
            successfulJobsHistoryLimit=1,
            failedJobsHistoryLimit=1,
            jobTemplate=JobTemplateSpec(
                metadata=ObjectMeta(labels=marks),
                spec=job(_dumping(setting), tries=3, seconds=3600, final=FINAL, kept=None),
            ),
        ),
    )


def _dumping(setting: Setting) -> PodTemplateSpec:
    names = " ".join(map(shlex.quote, databases(setting)))
    script = (
        f"set -eu\nmysqldump -h {DATABASE} -u root --single-transaction --quick --databases {names}"
        " > /dump/databases.sql\n"
    )
    dump = _client(setting, "dump", script, (), _dump_limit(setting))
    dump.volumeMounts = [SCRATCH[1], at("dump", "/dump")]
    volumes = [*archives.pod_code(), *archives.trust_volumes(setting)]
    return template(
        setting,
        DATABASE_DUMP,
        DATABASE,
        [_upload(setting)],
        init=[dump],
        volumes=[*volumes, empty("dump", _dump_limit(setting))],
        user=DATABASE_USER,
        restart="Never",
        version=archives.image_version(DATABASE_IMAGE),
    )


def _dump_limit(setting: Setting) -> str:
    """A dump is text, and may take more than the volume that it is of."""
    twice = 2 * (amount(setting.options.database_size) or 0)
    return f"{twice / 2**20:.0f}Mi" if twice > (amount(DISK_LIMIT) or 0) else DISK_LIMIT


def _upload(setting: Setting) -> Container:
    to = f"{setting.storage.url}/backups/databases"
    return Container(
        name="upload",
        image=setting.base_image,
        command=["python", "-m", "matcha_pod", "upload"],
        args=[
            "--from",
            "/dump/databases.sql",
            "--to",
            to,
            "--keep",
            str(DUMPS_KEPT),
            "--ends-with",
            DUMP_ENDS,
        ],
        env=[
            *storage_variables(setting),
            variable("PYTHONPATH", archives.POD_CODE),
            variable("HOME", "/tmp"),  # noqa: S108 - of the container
            *archives.trust_variables(setting),
        ],
        resources=resources(
            Resources(cpu=0.05, memory=64), memory_limit=256, disk_limit=_dump_limit(setting)
        ),
        volumeMounts=[
            SCRATCH[1],
            code.mount("pod-code", archives.POD_CODE),
            at("dump", "/dump"),
            *archives.trust_mounts(setting),
        ],
        terminationMessagePolicy="FallbackToLogsOnError",
        securityContext=LOCKED,
    )
