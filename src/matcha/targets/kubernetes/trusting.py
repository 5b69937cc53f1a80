"""A cluster whose certificate does not verify: no other try changes that."""

from __future__ import annotations

import ssl

from lightkube.config.kubeconfig import SingleConfig

from matcha.targets.kubernetes.kubeconfig import way
from matcha.targets.kubernetes.kubefiles import kubefiles
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.refusals import ClusterError

_NAMES = (62, 64)  # of OpenSSL's codes: it is for another host, or another address
_TIMES = (9, 10)  # it is not valid yet, or no more


def unverified(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """What `error` is about, where that is a certificate that does not verify."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, ssl.SSLCertVerificationError):
        found = found.__cause__ or found.__context__
    return found


def untrusted(
    options: KubernetesOptions, config: SingleConfig, error: ssl.SSLCertVerificationError
) -> ClusterError:
    about = way(config)
    whose = f"{about.server}{', or of its proxy-url,' if about.proxy.startswith('https') else ''}"
    where = f"{', '.join(map(str, kubefiles(options.kubeconfig)))}, context {config.context_name}"
    return ClusterError(
        f"The certificate of {whose} is not trusted: {error.verify_message.rstrip('.')}.",
        details=f"It is checked by {_key(config)} of the kubeconfig ({where}).",
        resolution=f"{_remedy(config, error.verify_code)} Then: matcha doctor",
    )


def _key(config: SingleConfig) -> str:
    about = config.cluster
    if about.certificate_auth_data:
        return "certificate-authority-data"
    if about.certificate_auth:
        return f"certificate-authority ({about.certificate_auth})"
    return "the authorities of this machine, for there is no certificate-authority-data"


def _remedy(config: SingleConfig, code: int) -> str:
    if code in _NAMES:
        return "Give the cluster, in the kubeconfig, a server or tls-server-name that its certificate is for."
    if code in _TIMES:
        return "See that this machine's clock is right; otherwise whoever runs the cluster has to renew it."
    key = "certificate-authority" if config.cluster.certificate_auth else "certificate-authority-data"
    return f"Put the certificate of the cluster's authority into the kubeconfig as {key}, or sign in anew."
