"""The stack as supervised processes of this user, on this machine."""

from matcha.targets.local.target import LocalOptions, LocalTarget

TARGET = LocalTarget

__all__ = ["TARGET", "LocalOptions", "LocalTarget"]
