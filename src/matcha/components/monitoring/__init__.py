"""Monitoring: a service of Matcha's own."""

from matcha.components.monitoring.component import Monitoring

COMPONENT = Monitoring

__all__ = ["COMPONENT", "Monitoring"]
