"""`targets.kubernetes.expose` of matcha.yaml."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

import msgspec

from matcha.errors import Unfit, quoted

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_NAMED = "of lower-case letters, digits, dashes and dots, a letter or digit at either end"
_SOURCES = ("tls-secret", "issuer", "cluster-issuer")

_Host = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^({_LABEL}\.)+[a-z]([-a-z0-9]{{0,61}}[a-z0-9])?\Z",
        max_length=253,
        description="a host's whole name in lower case, without https:// and without a port, "
        "as in models.example.com",
    ),
]


def _name(what: str) -> msgspec.Meta:
    return msgspec.Meta(
        pattern=rf"^({_SUBDOMAIN})?\Z", max_length=253, description=f"the name of {what}, {_NAMED}"
    )


_Gateway = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^(({_LABEL}/)?{_SUBDOMAIN})?\Z",
        max_length=317,
        description="the name of a Gateway, as in shared or infra/shared",
    ),
]
_Rate = Annotated[
    float, msgspec.Meta(ge=0.1, le=100_000, description="a number of requests a second, from 0.1 to 100000")
]


class Expose(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """How applications outside of the cluster reach models.

    `models`: the host by which they do, always by TLS. `gateway-class`: of the Gateway that Matcha makes,
    with the certificate of one of `tls-secret` (a Secret of the namespace with `tls.crt` and `tls.key`),
    `issuer` and `cluster-issuer` (of cert-manager). Or `gateway`: one that is there (`NAMESPACE/NAME`; of the
    stack's own namespace without the first), and its HTTPS `listener`. `gateway-namespace`: whose pods may
    bring requests in; that of the Gateway where empty. `gateway-addresses`: networks (as in 10.0.0.0/8) that
    may, where gateways are no pods. `rate`: requests a second that each token may make of each replica.
    """

    models: _Host
    gateway_class: Annotated[str, _name("a GatewayClass")] = ""
    gateway: _Gateway = ""
    listener: Annotated[str, _name("a listener of the Gateway")] = ""
    gateway_namespace: Annotated[str, _name("a namespace")] = ""
    gateway_addresses: tuple[str, ...] = ()
    tls_secret: Annotated[str, _name("a Secret of the namespace")] = ""
    issuer: Annotated[str, _name("an Issuer of the namespace")] = ""
    cluster_issuer: Annotated[str, _name("a ClusterIssuer")] = ""
    rate: _Rate = 20.0

    def __post_init__(self) -> None:
        if bool(self.gateway) == bool(self.gateway_class):
            key = "gateway" if self.gateway else "gateway-class"
            raise Unfit(
                key,
                "expose takes one of gateway-class (of a Gateway that Matcha makes) and gateway (one that is "
                f"there), found {'both' if self.gateway else 'neither'}",
            )
        sources = [key for key in _SOURCES if getattr(self, key.replace("-", "_"))]
        if self.gateway:
            self._check_shared(sources)
        elif len(sources) != 1:
            raise Unfit(
                sources[-1] if sources else "models",
                f"expose takes one of {', '.join(_SOURCES)}, found {' and '.join(sources) or 'none'}: tokens "
                "are sent by TLS only",
            )
        elif self.listener:
            raise Unfit("listener", "listener is of a Gateway that is there, which gateway names")
        for each in self.gateway_addresses:
            _check_network(each)

    def _check_shared(self, sources: list[str]) -> None:
        if sources:
            raise Unfit(sources[0], f"{sources[0]} goes without gateway, whose listener has its certificate")
        if not self.listener:
            raise Unfit("listener", "gateway needs listener, the name of its listener that speaks HTTPS")

    @property
    def namespace_and_gateway(self) -> tuple[str, str]:
        """The first is empty for the stack's own. Of a Gateway that is there."""
        namespace, _, name = self.gateway.rpartition("/")
        return namespace, name


def _check_network(text: str) -> None:
    try:
        if re.search(r"/[0-9]+\Z", text):
            ipaddress.ip_network(text)
            return
    except ValueError:
        pass
    wanted = "gateway-addresses has to be networks, as in [10.0.0.0/8]"
    raise Unfit("gateway-addresses", f"{wanted}, found {quoted(text)}")
