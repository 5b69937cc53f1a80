"""An error as a person reads it. Pure."""

from __future__ import annotations

from matcha.errors import MatchaError
from matcha.views.text import Line, Span, line

HINTS = ("Did you mean", "Known:", "None exist")  # answers to "which, then?", not things to do


def error_lines(problem: MatchaError) -> list[Line]:
    """The message, the details indented, and what to type next.

    Lines are not broken, so that what was searched for in a log is found whole.
    """
    details = [line(f"  {each}") for each in problem.details.splitlines()]
    more = [line(f"More: {problem.docs_url}")] if problem.docs_url else []
    return [line(Span("Error: ", "red"), problem.message), *details, *_next(problem.resolution), *more]


def _next(resolution: str) -> list[Line]:
    if not resolution:
        return []
    if resolution.startswith(HINTS):
        return [line(resolution)]
    return [line(Span("Next: ", "bold"), resolution)]
