"""The model server: MLServer."""

from matcha.components.mlserver.component import MLServer

COMPONENT = MLServer

__all__ = ["COMPONENT", "MLServer"]
