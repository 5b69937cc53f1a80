"""What `matcha tokens` shows. Pure."""

from __future__ import annotations

from typing import Any

from matcha.api.types import NewToken, RevokedToken, TokenInfo
from matcha.views.text import Line, Paper, render
from matcha.views.tokens import new_token_lines, revoked_lines, tokens_lines

SHOP = TokenInfo(name="shop", id="0a1b2c3d4e5f", models=("movie", "credit"), created=1_800_000_000.0)
OLD = TokenInfo(name="old", id="ffffffffffff", created=1_790_000_000.0, expires=1_795_000_000.0, expired=True)
NOTE = "mlserver-1 did not answer. It goes by the new list within about a minute."
PAPER = Paper(width=80)


def text(lines: list[Line]) -> str:
    return render(lines, PAPER)


def new(**more: Any) -> NewToken:
    return NewToken(token=SHOP, bearer="matcha_0a1b2c3d4e5f_00", url="https://models.example.com", **more)


def test_a_new_token_stands_alone_on_its_line_and_the_call_is_not_broken() -> None:
    call = "curl -s https://models.example.com/v2/models/movie/infer " + "-d x " * 30
    assert text(new_token_lines(new(curl=call, notes=(NOTE,)), PAPER)) == (
        "shop may ask movie, credit at https://models.example.com\n"
        "\n"
        "matcha_0a1b2c3d4e5f_00\n"
        "\n"
        "It is shown this once: only its digest is kept. Whoever has it may ask.\n"
        f"{NOTE}\n"
        "\n"
        "# shell, with the token in MATCHA_TOKEN\n"
        f"{call.rstrip()}\n"
    )


def test_a_token_of_a_stack_without_models_has_no_call() -> None:
    every = NewToken(token=OLD, bearer="matcha_f_0", url="https://models.example.com")
    shown = text(new_token_lines(every, PAPER))
    assert shown.startswith("old may ask every model at ") and "shell" not in shown


def test_tokens_are_listed_with_what_they_are_for_and_when_they_end() -> None:
    assert text(tokens_lines([OLD, SHOP], PAPER)) == (
        "NAME  ID            MODELS         CREATED     EXPIRES\n"
        "old   ffffffffffff  all            2026-09-21  2026-11-18 (over)\n"
        "shop  0a1b2c3d4e5f  movie, credit  2027-01-15  never\n"
    )


def test_without_tokens_the_next_step_is_told() -> None:
    assert text(tokens_lines([], PAPER)) == "No tokens.\nNext: matcha tokens create NAME\n"


def test_a_revoked_token_is_named() -> None:
    said = "The token shop (0a1b2c3d4e5f) lets nobody in any more.\n"
    assert text(revoked_lines(RevokedToken(token=SHOP), PAPER)) == said
    assert text(revoked_lines(RevokedToken(token=SHOP, notes=(NOTE,)), PAPER)) == f"{said}{NOTE}\n"
