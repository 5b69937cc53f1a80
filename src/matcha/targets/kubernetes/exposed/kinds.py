"""Kinds that not every cluster has."""

from __future__ import annotations

from typing import Any

from lightkube.generic_resource import create_namespaced_resource

GATEWAYS, CERTIFICATES = "gateway.networking.k8s.io", "cert-manager.io"
Gateway: type[Any] = create_namespaced_resource(GATEWAYS, "v1", "Gateway", "gateways")
HTTPRoute: type[Any] = create_namespaced_resource(GATEWAYS, "v1", "HTTPRoute", "httproutes")
Certificate: type[Any] = create_namespaced_resource(CERTIFICATES, "v1", "Certificate", "certificates")
OPTIONAL: tuple[type[Any], ...] = (HTTPRoute, Gateway, Certificate)
