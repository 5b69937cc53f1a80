"""Matcha: a complete open-source MLOps stack in one step."""

__version__ = "0.1.0"
