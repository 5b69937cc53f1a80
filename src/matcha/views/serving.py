"""Models: registered, served, asked. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from matcha.api.types import DeployResult, Prediction, ServedModel
from matcha.component import Deployment
from matcha.views.documents import to_json_line
from matcha.views.text import Column, Line, Paper, Span, line, table, wrap


def deploy_lines(result: DeployResult, paper: Paper) -> list[Line]:
    """The endpoint, then calls that can be pasted: they start at the first column and are not broken."""
    deployment = result.deployment
    notes = [each for note in result.notes for each in wrap(note, paper.width)]
    return [
        line(Span(f"{deployment.name} serves {deployment.uri}", "green")),
        line(Span(result.url, "cyan")),
        *([line(), *notes] if notes else []),
        line(),
        line(Span("# Python", "dim")),
        *_verbatim(result.python),
        line(),
        line(Span("# shell", "dim")),
        *_verbatim(result.curl),
        line(),
        line(Span("Next: ", "bold"), f"matcha predict {deployment.name} --input FILE"),
    ]


def _verbatim(text: str) -> list[Line]:
    return [line(each) for each in text.rstrip("\n").split("\n")]


def models_lines(models: Sequence[ServedModel], paper: Paper, first: str) -> list[Line]:
    """`first` is what to type where there is no model yet."""
    if not models:
        return [line("No model is registered yet."), line(Span("Next: ", "bold"), first)]
    columns = (
        Column("model", shrink=True),
        Column("versions", drop=1),
        Column("aliases", drop=2),
        Column("deployed as", shrink=True),
    )
    return table(columns, [_model(model) for model in models], paper)


def _model(model: ServedModel) -> tuple[Span, ...]:
    aliases = ", ".join(f"{alias} = {version}" for alias, version in sorted(model.aliases.items()))
    served = ", ".join(_served(d) for d in model.deployments)
    return Span(model.name), Span(_versions(model.versions)), Span(aliases), Span(served, "green")


def _versions(versions: Sequence[str]) -> str:
    """Up to five, otherwise the newest and how many."""
    if len(versions) <= 5:
        return ", ".join(versions)
    newest = max(versions, key=lambda v: (v.isdigit(), int(v) if v.isdigit() else 0))
    return f"{newest} and {len(versions) - 1} more"


def _served(deployment: Deployment) -> str:
    told = [f"version {deployment.version}"] if deployment.version else []
    told += ["dedicated"] if deployment.dedicated else []
    return f"{deployment.name} ({', '.join(told)})" if told else deployment.name


def prediction_text(prediction: Prediction) -> str:
    """One prediction a line, as JSON."""
    return "".join(to_json_line(value) for value in prediction.predictions)
