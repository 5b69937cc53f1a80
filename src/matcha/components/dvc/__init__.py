"""The place where versions of datasets are kept: DVC."""

from matcha.components.dvc.component import DVC

COMPONENT = DVC

__all__ = ["COMPONENT", "DVC"]
