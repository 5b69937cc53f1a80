"""Which Python the image has that serving, monitoring and jobs run on. Pure."""

from __future__ import annotations

from matcha import pythons
from matcha.errors import BadInput
from matcha.service import Environment
from matcha.targets.kubernetes import checks
from matcha.targets.kubernetes.options import KubernetesOptions


def known(options: KubernetesOptions) -> str:
    """As "3.12"; empty where neither the options nor the image's name say it."""
    found = checks.said(options.image)
    return options.python or (found["version"] if found else "")


def python(options: KubernetesOptions) -> str:
    """Raises BadInput where it is not known."""
    if found := known(options):
        return found
    raise BadInput(
        f"Which Python the image of targets.kubernetes has does not show in its name: {options.image}",
        details="A model is served by the Python it was made with, or by one that reads it.",
        resolution='Set targets.kubernetes.python in matcha.yaml, as in: python: "3.12"',
    )


def way_to(options: KubernetesOptions, wanted: str) -> str:
    """What to set for the image to have this Python."""
    found = checks.said(options.image)
    if found is None or options.python not in ("", found["version"]):
        return f"targets.kubernetes.image (and python) in matcha.yaml to one with Python {wanted}"
    start, end = found.span("version")
    return f"targets.kubernetes.image in matcha.yaml to {options.image[:start]}{wanted}{options.image[end:]}"


def wanted(options: KubernetesOptions, environment: Environment) -> str:
    """What the image has to have for an environment to be built on it."""
    return ",".join(filter(None, [environment.python, options.python and f"=={options.python}.*"]))


def check(options: KubernetesOptions, environment: Environment) -> None:
    """Raises BadInput for an environment that the image cannot have, as far as that is known."""
    here = known(options)
    if not here or pythons.fits(here, environment.python):
        return
    fitting = next((v for v in pythons.SUPPORTED if pythons.fits(v, environment.python)), "")
    raise BadInput(
        f"The environment {environment.name} needs Python {environment.python}, not {here}.",
        details=f"It is built on the image {options.image}.",
        resolution=f"Set {way_to(options, fitting)}" if fitting else "matcha models",
    )
