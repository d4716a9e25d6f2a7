"""Checks that refuse a merge whose model would look right and be wrong."""

import itertools
from collections.abc import Mapping, Sequence

from torch import Tensor

from modules.errors import UserError

UNRELATED = 0.5
"""A task vector longer than this fraction of the base is no fine-tuning of it: models with nothing in common are about
1.4 times the base apart, fine-tuned ones a few hundredths."""

SAME = 1e-10
"""Squared relative distance below which two task vectors are the same: float32 keeps duplicates apart by less."""


def refuse_suspicious(gram: Tensor, base_norm: float, experts: Sequence[str]) -> None:
    """Refuse experts that equal the base, duplicates, and experts of another base.

    Args:
        gram: ``[N, N]`` of the whole task vectors.
        base_norm: length of the base, over the same tensors.
        experts: the experts' names.

    Raises:
        UserError: an expert is one of these; the message has the figures.
    """
    squares = gram.diagonal()
    for name, square in zip(experts, squares.tolist(), strict=True):
        norm = square**0.5
        if square == 0:
            raise UserError(f"expert '{name}' equals the base: its task vector has norm 0; {INSIST}")
        if norm > UNRELATED * base_norm:
            raise UserError(
                f"expert '{name}' does not come from this base: its task vector has norm {norm:.4g}, the base "
                f"{base_norm:.4g}; {INSIST}"
            )
    for i, j in itertools.combinations(range(len(experts)), 2):
        distance = float(squares[i] + squares[j] - 2 * gram[i, j])
        if distance <= SAME * float(squares[i] + squares[j]):
            raise UserError(
                f"experts '{experts[i]}' and '{experts[j]}' are the same: their task vectors of norm "
                f"{float(squares[i]) ** 0.5:.4g} are {max(distance, 0.0) ** 0.5:.2g} apart; {INSIST}"
            )


def refuse_other_ancestors(base: str, ancestors: Mapping[str, Sequence[str] | None]) -> None:
    """Refuse experts that record another base.

    Args:
        base: identity of the base's weights.
        ancestors: expert to the identities of all models that its training started from; None: it records none.

    Raises:
        UserError: an expert was not trained from this base.
    """
    for name, known in ancestors.items():
        if known is not None and base not in known:
            raise UserError(
                f"expert '{name}' was trained from another base: it records {', '.join(s[:12] for s in known)}, "
                f"this base is {base[:12]} (sha256); {INSIST}"
            )


INSIST = "leave it out, or insist with --allow_suspicious (allow_suspicious: true in a recipe's model)"
