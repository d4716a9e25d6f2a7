"""Groups of tensors that share one set of coefficients."""

import re
from collections.abc import Iterable

from modules.errors import UserError

LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
"""The number of a layer in transformers' parameter names: ``encoder.layer.3.``, ``layers.3.``, ``h.3.``."""

EMBEDDINGS = re.compile(r"embed|wte|wpe|shared", re.IGNORECASE)
"""Names of tensors before the first layer; other tensors without a layer come after the last."""


def groups_of(names: Iterable[str], granularity: str | int) -> dict[str, str]:
    """Assign every tensor to a group; each group is merged as a vector of its own, with its own angles.

    Args:
        names: of the tensors.
        granularity: ``model``: one group (the paper). ``layer``: one per layer, one for the embeddings, and one for
            the tensors after the layers. A number: that many groups of consecutive layers, the embeddings with the
            first, the tensors after the layers with the last. ``tensor``: every tensor by itself.

    Returns:
        Tensor name to the name of its group.

    Raises:
        UserError: there is no such granularity, or the model has fewer layers than groups are asked for.
    """
    if granularity == "model":
        return dict.fromkeys(names, "model")
    if granularity == "tensor":
        return {name: name for name in names}
    layers = {name: _layer(name) for name in names}
    count = 1 + max((layer for layer in layers.values() if layer is not None), default=-1)
    if granularity == "layer":
        return {name: _outside(name) if layer is None else f"layer {layer}" for name, layer in layers.items()}
    if not isinstance(granularity, int) or granularity < 1:
        raise UserError(f"granularity is {granularity!r}; use model, layer, tensor or a number of groups")
    if granularity > count:
        raise UserError(f"granularity asks for {granularity} groups of layers; the model has {count} layers")
    ends = {"embeddings": 0, "final": count - 1}
    return {
        name: f"group {(ends[_outside(name)] if layer is None else layer) * granularity // count}"
        for name, layer in layers.items()
    }


def depths_of(names: Iterable[str]) -> dict[str, float]:
    """Return the depth of every tensor: 0 for the embeddings and the first layer, 1 for the last and what follows.

    Args:
        names: of the tensors; the last layer is the last among them.
    """
    layers = {name: _layer(name) for name in names}
    last = max((layer for layer in layers.values() if layer is not None), default=0)
    outside = {"embeddings": 0.0, "final": 1.0}
    return {name: outside[_outside(name)] if layer is None else layer / max(1, last) for name, layer in layers.items()}


def _layer(name: str) -> int | None:
    match = LAYER.search(name)
    return int(match.group(1)) if match else None


def _outside(name: str) -> str:
    return "embeddings" if EMBEDDINGS.search(name) else "final"
