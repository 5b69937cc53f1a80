"""The pipelines: ZenML."""

from matcha.components.zenml.component import ZenML

COMPONENT = ZenML

__all__ = ["COMPONENT", "ZenML"]
