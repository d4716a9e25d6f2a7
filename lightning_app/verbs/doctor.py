"""``python -m lightning_app doctor``: what this machine has for a fit, and what to do about what is missing."""

import textwrap

from lightning_app.machine.checks import examine
from lightning_app.verbs.verb_parser import Parser

WIDTH = 120


def main(arguments: list[str]) -> int:
    """Run the verb; 0 if nothing stops a fit, else 1.

    Raises:
        UserError: there are arguments.
    """
    make_parser().parse_args(arguments)
    checks = list(examine())
    width = max(len(check.title) for check in checks)
    for check in checks:
        print(_wrapped(f"{check.title:{width}}  {check.found}", width + 2))
    advice = sorted(((check.stops, line) for check in checks for line in check.advice), key=lambda said: not said[0])
    print()
    for stops, line in advice:
        print(_wrapped(f"{'stops a fit: ' if stops else '- '}{line}", 2))
    stopped = any(check.stops for check in checks)
    print("a fit cannot run yet" if stopped else "nothing stops a fit: python -m lightning_app fit")
    return int(stopped)


def make_parser() -> Parser:
    """Return the parser of the verb, which has no options."""
    return Parser(
        prog="python -m lightning_app doctor",
        allow_abbrev=False,
        description="Say what this machine has for a fit, and what to do about what is missing; exit status 1 if that "
        "stops a fit, else 0.",
    )


def _wrapped(line: str, indent: int) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False)
