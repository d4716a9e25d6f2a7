"""Task vectors ``V_i = theta_i - theta_0`` in memory: taken, checked, prepared for a merge method.

Shapes: N experts.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from modules.encoder import TextEncoder
from modules.errors import UserError
from modules.gram import gram_of, sum_by_group
from modules.merging.base import MergeMethod, Prepared, Statistics
from modules.safety import ARCHITECTURE

Vectors = dict[str, Tensor]
"""Parameter of the backbone to ``[N, *shape]``: the same parameter's difference in every expert."""


def load_task_vectors(base: TextEncoder, experts: Mapping[str, str]) -> Vectors:
    """Read expert folders, one at a time, and subtract the base.

    Args:
        base: theta_0.
        experts: name to model folder.

    Returns:
        The task vectors; parameters that no expert changed are left out.

    Raises:
        UserError: an expert is missing, or differs from the base in architecture, vocabulary, pooling or prompts.
    """
    weights = dict(base.backbone.named_parameters())
    stacked = {name: torch.zeros(len(experts), *weight.shape) for name, weight in weights.items()}
    for i, (expert_name, folder) in enumerate(experts.items()):
        # A plain transformers checkpoint does not say how it pools: it is read as the base is.
        expert = _load_like(base, folder)
        refuse_mismatch(base, expert, f"expert '{expert_name}' ({folder})")
        with torch.no_grad():
            for name, weight in expert.backbone.named_parameters():
                torch.sub(weight, weights[name], out=stacked[name][i])
    return {name: vectors for name, vectors in stacked.items() if vectors.any()}


def prepare_vectors(method: MergeMethod, vectors: Vectors, statistics: Statistics | None = None) -> dict[str, Prepared]:
    """What a method combines, tensor by tensor; `vectors` may be changed in place."""
    prepare = method.preparation(lambda: iter(vectors.items()), statistics)
    return {name: prepare(name, stacked) for name, stacked in vectors.items()}


def gram_matrices(vectors: Mapping[str, Tensor], groups: Mapping[str, str]) -> Tensor:
    """``G[i, j] = <V_i, V_j>`` over the parameters of each group.

    Args:
        vectors: ``[N, *shape]`` per parameter.
        groups: parameter to group; see `modules.granularity.groups_of`.

    Returns:
        ``[G, N, N]`` float64, in the order in which the groups first occur.
    """
    grams = {name: gram_of(stacked) for name, stacked in vectors.items()}
    return sum_by_group(grams, groups, dict.fromkeys(groups.values()))


def refuse_mismatch(base: TextEncoder, expert: TextEncoder, who: str) -> None:
    """Raise a UserError if weights of the two cannot be subtracted, or would be read differently.

    Args:
        base: theta_0.
        expert: the model compared with it.
        who: how messages call the expert.
    """
    shapes = {name: tuple(weight.shape) for name, weight in base.named_parameters()}
    theirs = {name: tuple(weight.shape) for name, weight in expert.named_parameters()}
    different = sorted(name for name in shapes.keys() & theirs.keys() if shapes[name] != theirs[name])
    for kind, keys in (
        ("lacks parameters of the base", sorted(shapes.keys() - theirs.keys())),
        ("has parameters that the base lacks", sorted(theirs.keys() - shapes.keys())),
        ("has other shapes than the base", [f"{key} {theirs[key]} for {shapes[key]}" for key in different]),
    ):
        if keys:
            raise UserError(f"{who} {kind} ({len(keys)}): {', '.join(keys[:4])}; merge models of one architecture")
    for part in ARCHITECTURE:
        ours, other = getattr(base.backbone.config, part, None), getattr(expert.backbone.config, part, None)
        if ours != other:
            raise UserError(f"{who} has {part} {other!r}, the base {ours!r}; merge models of one architecture")
    if base.tokenizer.get_vocab() != expert.tokenizer.get_vocab():
        raise UserError(f"{who} has another vocabulary than the base; merge models that share a tokenizer")
    for part in ("pooling", "normalize", "prompts", "max_length"):
        ours, other = getattr(base.config, part), getattr(expert.config, part)
        if ours != other:
            raise UserError(f"{who} has {part} {other!r}, the base {ours!r}; they must agree")


def _load_like(base: TextEncoder, folder: str) -> TextEncoder:
    if (Path(folder) / "modules.json").exists():
        return TextEncoder.load(folder)
    return TextEncoder.load(folder, pooling=base.config.pooling)
