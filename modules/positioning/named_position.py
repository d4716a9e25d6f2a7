"""The numbers of a position by the names of its experts and groups.

Shapes: N experts, G groups of tensors with coefficients of their own.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from modules.errors import UserError
from modules.positioning.position import Position


def describe_position(position: Position, experts: Sequence[str]) -> dict[str, float]:
    """Return the numbers of a position by name.

    Args:
        position: of the merge.
        experts: their names, in the order of the merge.

    Returns:
        ``a/<expert>`` in units of their mean, ``c/<expert>`` (the factor of its task vector), and ``scale``. With
        several groups the names go on: ``c/<expert>/<group>``.
    """
    labels = position.labels
    return {
        key if len(labels) == 1 else f"{key}/{label}": float(value)
        for key, values in _by_group(position, experts).items()
        for label, value in zip(labels, values, strict=True)
    }


def mean_position(position: Position, experts: Sequence[str]) -> dict[str, float]:
    """Return the numbers of `describe_position`, each the mean over the groups."""
    return {key: float(values.mean()) for key, values in _by_group(position, experts).items()}


def coefficients_by_group(position: Position, experts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return group to expert to the factor of its prepared task vector, scale included, to the last bit."""
    values = position.coefficients().detach().tolist()
    return {label: dict(zip(experts, c, strict=True)) for label, c in zip(position.labels, values, strict=True)}


def start_from(position: Position, experts: Sequence[str], described: Mapping[str, float]) -> None:
    """Move a position to the coefficients ``c`` of another, whatever the methods of the two are.

    Experts that the other does not name get the mean of the others. For a method that prepares the task vectors (TIES,
    DARE, Fisher, RegMean), ``c`` are the factors of the prepared vectors, so that the start is the same model only if
    both prepare alike.

    Args:
        position: of the merge.
        experts: their names, in the order of the merge.
        described: the other position, as `describe_position` returns it.

    Raises:
        UserError: either position has several groups, they have no expert in common, or this position cannot have
            these coefficients.
    """
    known = {name: described[f"c/{name}"] for name in experts if f"c/{name}" in described}
    if not known or len(position.labels) > 1:
        raise UserError(f"cannot start from a position of {', '.join(described)}: it has other experts, or groups")
    mean = sum(known.values()) / len(known)
    position.stand_where(torch.tensor([known.get(name, mean) for name in experts], dtype=torch.float64))


@torch.no_grad()
def _by_group(position: Position, experts: Sequence[str]) -> dict[str, Tensor]:
    """Return every number of a position: ``[G]``, in the order of its labels."""
    a, c = position.a, position.coefficients()
    a = a / a.abs().mean(1, keepdim=True) if position.method.has_scale else a
    by_expert = {f"{key}/{name}": of[:, i] for key, of in (("a", a), ("c", c)) for i, name in enumerate(experts)}
    return by_expert | {"scale": position.scale}
