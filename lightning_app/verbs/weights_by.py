"""``--weights_by``: coefficients for the tensors in whose name a regular expression is found."""

from collections.abc import Iterable

from modules.errors import UserError


def parse_weights(given: Iterable[str]) -> dict[str, list[float]]:
    """Return expression to coefficients.

    Args:
        given: each ``expression=number,number``.

    Raises:
        UserError: a text is not of this form, or an expression is given twice.
    """
    weights: dict[str, list[float]] = {}
    for text in given:
        expression, _, numbers = text.rpartition("=")
        try:
            if not expression:
                raise ValueError
            row = [float(number) for number in numbers.split(",")]
        except ValueError as error:
            raise UserError(
                f"--weights_by has '{text}'; write an expression and a number per expert: mlp=0.2,1"
            ) from error
        if expression in weights:
            raise UserError(f"--weights_by has the expression '{expression}' twice; only the first would count")
        weights[expression] = row
    return weights
