"""What the forwarder is told. `links` writes it; the process reads it at its start, and the ports again when
it is asked whether it has those of another content.
"""

from __future__ import annotations

import hashlib

import msgspec

from matcha.targets.kubernetes.options import KubernetesOptions


class Forward(msgspec.Struct, frozen=True, kw_only=True):
    """One loopback port. `key` is `service/port name`, `port` the number in the pod, `local` the one here,
    `preferred` the one it would have if it could.
    """

    key: str
    service: str
    port: int
    preferred: int
    local: int = 0


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """`kubeconfig` is a file, or several as in KUBECONFIG. `health` is the loopback port of the forwarder's
    own health answer. `environment` is a JSON file of variables that the kubeconfig's credential plugin
    needs; it is read whenever the plugin is about to run.
    """

    kubeconfig: str
    context: str
    namespace: str
    health: int
    environment: str
    forwards: tuple[Forward, ...]

    @classmethod
    def of(cls, options: KubernetesOptions) -> Config:
        """The cluster alone."""
        return cls(
            kubeconfig=options.kubeconfig,
            context=options.context,
            namespace=options.namespace,
            health=0,
            environment="",
            forwards=(),
        )


def lasting(config: Config) -> str:
    """Names what a process runs by from its start to its end: all but the ports."""
    return mark(msgspec.json.encode(msgspec.structs.replace(config, forwards=())))


def mark(raw: bytes) -> str:
    """Names this content of the file: the health answer of a process that runs by it is at `/MARK`."""
    return hashlib.sha256(raw).hexdigest()[:16]
