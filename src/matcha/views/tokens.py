"""Tokens of applications. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence

from matcha.api.types import NewToken, RevokedToken, TokenInfo
from matcha.views.text import Column, Line, Paper, Span, line, table, wrap

DAY = "%Y-%m-%d"


def new_token_lines(made: NewToken, paper: Paper) -> list[Line]:
    """The token stands alone on its line, and what can be pasted starts at the first column."""
    return [
        line(Span(f"{made.token.name} may ask {_models(made.token)} at {made.url}", "green")),
        line(),
        line(Span(made.bearer, "cyan")),
        line(),
        *wrap("It is shown this once: only its digest is kept. Whoever has it may ask.", paper.width),
        *_notes(made.notes, paper),
        *(
            [line(), line(Span("# shell, with the token in MATCHA_TOKEN", "dim")), line(made.curl)]
            * bool(made.curl)
        ),
    ]


def tokens_lines(found: Sequence[TokenInfo], paper: Paper) -> list[Line]:
    if not found:
        return [line("No tokens."), line(Span("Next: ", "bold"), "matcha tokens create NAME")]
    columns = (
        Column("name", shrink=True),
        Column("id"),
        Column("models", shrink=True),
        Column("created", drop=1),
        Column("expires"),
    )
    return table(columns, [_row(each) for each in found], paper)


def _row(token: TokenInfo) -> tuple[Span, ...]:
    ends = _day(token.expires) if token.expires else "never"
    return (
        Span(token.name),
        Span(token.id),
        Span(", ".join(token.models) or "all"),
        Span(_day(token.created), "dim"),
        Span(f"{ends} (over)", "red") if token.expired else Span(ends),
    )


def revoked_lines(revoked: RevokedToken, paper: Paper) -> list[Line]:
    told = revoked.token
    return [
        line(f"The token {told.name} ({told.id}) lets nobody in any more."),
        *_notes(revoked.notes, paper),
    ]


def _models(token: TokenInfo) -> str:
    return ", ".join(token.models) or "every model"


def _day(moment: float) -> str:
    return time.strftime(DAY, time.gmtime(moment))


def _notes(notes: Sequence[str], paper: Paper) -> list[Line]:
    return [each for note in notes for each in wrap(note, paper.width)]
