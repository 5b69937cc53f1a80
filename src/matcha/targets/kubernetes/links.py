"""What of this machine a stack in a cluster uses: its forwards, kept alive by a supervisor.

DATA/links/ID/              0700, in the user's data folder; every checkout of the stack shares it
  forward.json              what the forwarder does: the ports of this stack on this machine
  plugin.json               environment of the kubeconfig's credential plugin
  note.json                 where the supervisor's socket is, and which context was meant
  projects                  folders of those that it was used from
  supervisor/  logs/  work/

Anything may be killed at any moment: `ensure` compares what is with what should be, and repairs.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from matcha.environments import cache_root
from matcha.errors import BadInput, MatchaError
from matcha.host.files import guarded, private_folder, remove_empty, remove_tree, write_changed
from matcha.host.listening import listening
from matcha.host.ports import HOST, PortBook, Wish
from matcha.host.probe import ask
from matcha.host.programs import HealthCheck, Program, last_line
from matcha.host.runtime import first_usable, runtime_folders, user_data
from matcha.host.supervisor import Supervisor
from matcha.service import digest_of
from matcha.state import is_stack_id
from matcha.targets.kubernetes.forward.config import Config, Forward, lasting, mark
from matcha.targets.kubernetes.kubefiles import joined, kubefiles, stamp
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.plugin import without_stack

PROGRAM = "forward"
START_SECONDS = 30.0  # from a process that was spawned to one that has its ports
HANG_SECONDS = 10.0  # of silence, after which one that has run for a while is started anew
ROUNDS = 3  # tries to get ports that nobody takes in between
_HEALTH = "/health"  # the key of the forwarder's own port: no service is called ""

# What programs that sign in to clusters read, besides what every program of the supervisor gets.
_PLUGIN_PREFIXES = ("AWS_", "AZURE_", "AAD_", "ARM_", "GOOGLE_", "CLOUDSDK_", "KUBE", "OCI_", "XDG_")


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """`asked` is what the user named, `seen` the kubeconfig's time and size when it meant `context`.

    `kubeconfig`: its file, or several as in KUBECONFIG.
    """

    runtime: str = ""
    asked: tuple[str, ...] = ()
    kubeconfig: str = ""
    seen: tuple[int, int] = (0, 0)
    context: str = ""


class Links:
    """The forwards of one stack on this machine, used from `project`. Making one reads and writes nothing."""

    def __init__(self, stack_id: str, options: KubernetesOptions, project: Path | None = None) -> None:
        if not is_stack_id(stack_id):  # it comes from the cluster, and will name a folder
            raise BadInput(
                f"The stack's id cannot name a folder: {stack_id!r}",
                details="It stands in the record that the namespace holds, which somebody changed.",
                resolution="matcha doctor",
            )
        self.stack_id = stack_id
        self.home = user_data() / "links" / stack_id
        # Another data folder of the same user has forwards of its own, and may share the folder of sockets.
        self._owner = f"links-{stack_id}-{digest_of(str(self.home))[:8]}"
        self._options = options
        self._project = project
        self._book = PortBook(cache_root() / "ports.json", lambda other: Path(other).is_dir())

    def ports(self) -> dict[str, int]:
        """Loopback ports by `service/port`, as last claimed; whether they work now is for `ensure`."""
        return {f.key: f.local for f in self.forwards()}

    def forwards(self) -> tuple[Forward, ...]:
        """As last claimed."""
        config, _ = self._config()
        return config.forwards if config else ()

    def answer(self) -> str:
        """Empty where the forwarder works and has its ports, otherwise what it does instead."""
        config, raw = self._config()
        return _answer(config, raw) if config else "there never were any"

    def ensure(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Have exactly these forwards up; returns their loopback ports by the same keys, `service/port`.

        `wanted` has the number each listens on in its pod, which is preferred here too unless the options
        name another. Asks no cluster, and costs a few milliseconds where all is as it should be. Raises
        MatchaError where the forwarder does not come up, BadInput for a kubeconfig that is of no use.
        """
        forwards = self._forwards(wanted)
        note = self._meant(self._note())
        private_folder(self.home).chmod(0o700)
        self._keep_plugin_environment()
        self._keep_project()
        if not self._is_well(forwards, note):
            with guarded(self.home / "lock", wait=4 * START_SECONDS):
                self._mend(forwards, note)
        return self.ports()

    def stop(self) -> None:
        """No process is left; the ports stay claimed."""
        if self.home.exists():
            with guarded(self.home / "lock", wait=4 * START_SECONDS):
                self._supervisor().shutdown()

    def remove(self) -> None:
        """Processes, ports and files go. Nothing happens where there is nothing."""
        runtime = self._runtime()
        with guarded(self.home / "lock", wait=4 * START_SECONDS):
            self._supervisor().shutdown()
            self._book.drop(str(self.home))
            remove_tree(runtime)
            remove_tree(self.home)
        remove_empty(runtime.parent, self.home.parent, user_data())

    def leftovers(self) -> Sequence[str]:
        """What is still there, as lines; empty when it is proved gone."""
        pids = self._supervisor().survivors()
        lines = [f"process {pid}" for pid in pids]
        lines += [f"port {port}, held by a forward of the stack" for port in sorted(listening(pids))]
        lines += [str(path) for path in (self.home, self._runtime()) if path.exists()]
        return [*lines, *(f"port {port}, claimed" for port in self._book.held(str(self.home)))]

    def leads_here(self) -> bool:
        """Whether the forwards go to the namespace that the options mean."""
        return self.used_in() == self.here()

    def here(self) -> tuple[str, str, str]:
        """As the options mean now: kubeconfig, context, namespace. Raises BadInput."""
        return self._place(self._meant(Note()))

    def used_in(self) -> tuple[str, str, str]:
        """As last used: kubeconfig, context, namespace; empty where it never was."""
        config, _ = self._config()
        return (config.kubeconfig, config.context, config.namespace) if config else ("", "", "")

    def projects(self) -> list[str]:
        with contextlib.suppress(OSError):
            return (self.home / "projects").read_text(encoding="utf-8").splitlines()
        return []

    # -- what should be --------------------------------------------------------------------------------

    def _forwards(self, wanted: Mapping[str, int]) -> tuple[Forward, ...]:
        """Sorted by key, without their loopback ports."""
        main: dict[str, str] = {}  # service -> its first port: the one that an option by service means
        for key in wanted:
            service, _, name = key.partition("/")
            main[service] = key if name == "http" else main.get(service, key)
        chosen = self._options.ports
        named = {key: chosen[service] for service, key in main.items() if service in chosen}
        preferred = {**wanted, **named, **{key: chosen[key] for key in wanted if key in chosen}}
        return tuple(
            Forward(key=key, service=key.partition("/")[0], port=port, preferred=preferred[key])
            for key, port in sorted(wanted.items())
        )

    def _meant(self, note: Note) -> Note:
        """`note` with the file and the context that the options mean now. A forwarder is told both by name:
        it must not follow when the user makes another context the current one.
        """
        options = self._options
        asked = (options.kubeconfig, options.context, os.environ.get("KUBECONFIG", ""), str(Path.home()))
        files = kubefiles(options.kubeconfig)
        if note.asked == asked and (options.context or stamp(files) == note.seen):
            return note
        from matcha.targets.kubernetes.kubeconfig import load_config  # noqa: PLC0415 - it takes a while

        seen, config = stamp(files), load_config(options)
        return msgspec.structs.replace(
            note, asked=asked, kubeconfig=joined(files), seen=seen, context=config.context_name
        )

    # -- what is ---------------------------------------------------------------------------------------

    def _config(self) -> tuple[Config | None, bytes]:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            raw = (self.home / "forward.json").read_bytes()
            return msgspec.json.decode(raw, type=Config), raw
        return None, b""

    def _note(self) -> Note:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode((self.home / "note.json").read_bytes(), type=Note)
        return Note()

    def _runtime(self) -> Path:
        known = self._note().runtime
        return Path(known) if known else self._runtimes()[0]

    def _runtimes(self) -> tuple[Path, ...]:
        return runtime_folders(user_data(), self._owner, os.getuid(), os.environ)

    def _supervisor(self) -> Supervisor:
        return Supervisor(self.home / "supervisor", self._runtime(), self._owner)

    def _is_well(self, forwards: tuple[Forward, ...], note: Note) -> bool:
        config, raw = self._config()
        if config is None or note != self._note() or not note.runtime:
            return False
        there = tuple(msgspec.structs.replace(f, local=0) for f in config.forwards)
        same = (config.kubeconfig, config.context, config.namespace) == self._place(note)
        return same and there == forwards and self._supervisor().alive() and not _answer(config, raw)

    def _place(self, note: Note) -> tuple[str, str, str]:
        return note.kubeconfig, note.context, self._options.namespace

    # -- from what is to what should be ----------------------------------------------------------------

    def _keep_plugin_environment(self) -> None:
        path, kept = self.home / "plugin.json", dict[str, str]()
        with contextlib.suppress(OSError, msgspec.DecodeError):
            kept = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        write_changed(path, msgspec.json.encode(plugin_environment(os.environ, kept)))

    def _keep_project(self) -> None:
        known = self.projects()
        if self._project is not None and str(self._project) not in known:
            text = "".join(f"{each}\n" for each in [*known, str(self._project)])
            write_changed(self.home / "projects", text.encode())

    def _mend(self, forwards: tuple[Forward, ...], note: Note) -> None:
        """Under the lock."""
        runtime = first_usable([*([Path(note.runtime)] if note.runtime else []), *self._runtimes()])
        note = msgspec.structs.replace(note, runtime=str(runtime))
        write_changed(self.home / "note.json", msgspec.json.encode(note))
        supervisor, answer = self._supervisor(), ""
        if not supervisor.alive():
            supervisor.shutdown()  # what a killed one left may still hold the ports
        for attempt in range(ROUNDS):
            config, raw = self._claim(forwards, note, supervisor)
            seconds = self._run(supervisor, config, anew=attempt > 0)
            if not (answer := self._wait(supervisor, config, raw, seconds)):
                return
        raise MatchaError(
            "The forwards to the cluster do not come up.",
            details="\n".join(filter(None, [answer, last_line(self.log)])),
            resolution="matcha doctor",
        )

    def _claim(
        self, forwards: tuple[Forward, ...], note: Note, supervisor: Supervisor
    ) -> tuple[Config, bytes]:
        """Claims the ports and writes them down."""
        old, _ = self._config()
        own = _Own(supervisor)
        had = {(f.key, f.preferred): f.local for f in (old.forwards if old else ())}
        wishes = [Wish(f.key, f.preferred, had.get((f.key, f.preferred)) or own.back(f)) for f in forwards]
        health = Wish(_HEALTH, 0, old.health if old else 0)
        ports = self._book.claim(str(self.home), [*wishes, health], own.listens)
        kubeconfig, context, namespace = self._place(note)
        config = Config(
            kubeconfig=kubeconfig,
            context=context,
            namespace=namespace,
            health=ports[_HEALTH],
            environment=str(self.home / "plugin.json"),
            forwards=tuple(msgspec.structs.replace(f, local=ports[f.key]) for f in forwards),
        )
        raw = msgspec.json.encode(config)
        write_changed(self.home / "forward.json", raw)
        return config, raw

    def _run(self, supervisor: Supervisor, config: Config, *, anew: bool) -> float:
        """Starts the forwarder where it does not run for this cluster; `anew` in any case. One that runs
        takes other ports when it is asked for them. Returns the seconds that it may take to answer.
        """
        supervisor.ensure()
        status = supervisor.programs().get(PROGRAM)
        if anew or status is None or status.digest != lasting(config) or not status.pid:
            supervisor.put(self._program(config))
            return START_SECONDS
        return HANG_SECONDS if status.uptime > HANG_SECONDS else START_SECONDS

    def _wait(self, supervisor: Supervisor, config: Config, raw: bytes, seconds: float) -> str:
        """Until it has all its ports; what it says instead where it has not."""
        deadline = time.monotonic() + seconds
        while answer := _answer(config, raw):
            status = supervisor.programs().get(PROGRAM)
            dying = status is None or status.condition == "failed" or status.restarts > 1
            lives = answer.startswith("answers")  # and another program has one of its ports
            if dying or lives or time.monotonic() > deadline:
                return answer
            time.sleep(0.05)
        return ""

    @property
    def log(self) -> Path:
        return self.home / "logs" / f"{PROGRAM}.log"

    def _program(self, config: Config) -> Program:
        module = "matcha.targets.kubernetes.forward"
        return Program(
            name=PROGRAM,
            argv=(sys.executable, "-m", module, str(self.home / "forward.json")),
            env={"PYTHONUNBUFFERED": "1"},
            secrets={},
            secrets_file=self.home / "plugin.json",
            folder=self.home / "work",
            log=self.log,
            stop_seconds=5,
            health=HealthCheck(f"http://{HOST}:{config.health}/"),
            digest=lasting(config),
        )


def strays(options: KubernetesOptions, keep: str) -> list[Links]:
    """Of stacks that the namespace once held, on this machine. `keep` is the id of the one that it holds now,
    empty for none.

    Raises BadInput for a kubeconfig that is of no use.
    """
    return [links for links in _known(options) if links.home.name != keep and links.leads_here()]


def elsewhere(options: KubernetesOptions, project: Path) -> Iterator[tuple[str, str]]:
    """Namespace and id of stacks in the same cluster that this project was used with on this machine; of one
    namespace it may be several, of which one lives at most.
    """
    for links in _known(options):
        *there, namespace = links.used_in()
        if (
            namespace != options.namespace
            and str(project) in links.projects()
            and there == [*links.here()[:2]]
        ):
            yield namespace, links.home.name


def _known(options: KubernetesOptions) -> list[Links]:
    parent = user_data() / "links"
    homes = sorted(parent.iterdir()) if parent.is_dir() else []
    return [Links(home.name, options) for home in homes if is_stack_id(home.name)]


class _Own:
    """Whether the forwarder itself listens on a port; looked up once, where it matters."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._ports: set[int] | None = None

    def listens(self, port: int) -> bool:
        if self._ports is None:
            status = self._supervisor.programs().get(PROGRAM)
            self._ports = listening([status.pid]) if status and status.pid else set()
        return port in self._ports

    def back(self, forward: Forward) -> int:
        """The port it prefers, where another forward has had it until now; otherwise 0."""
        return forward.preferred if self.listens(forward.preferred) else 0


def plugin_environment(environ: Mapping[str, str], kept: Mapping[str, str]) -> dict[str, str]:
    """The part of the user's environment that programs signing in to clusters read.

    Of each provider the variables are those of `environ`, all of them; where it has none, those of `kept`
    stay: not every shell is signed in to every cloud.
    """
    given, found = without_stack(environ), dict[str, str]()
    for prefix in _PLUGIN_PREFIXES:
        theirs = {k: v for k, v in given.items() if k.startswith(prefix)}
        found |= theirs or {k: v for k, v in kept.items() if k.startswith(prefix)}
    return dict(sorted(found.items()))


def _answer(config: Config, raw: bytes) -> str:
    """Empty where the forwarder runs by this configuration and has its ports, otherwise what it says."""
    return ask(f"http://{HOST}:{config.health}/{mark(raw)}", 3.0)
