"""The kubernetes target; needs `pip install "matcha-ml[kubernetes]"`."""

from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.target import KubernetesTarget

TARGET = KubernetesTarget

__all__ = ["TARGET", "KubernetesOptions", "KubernetesTarget"]
