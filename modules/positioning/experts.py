"""The experts of a merge: their folders, the checks of their task vectors, and the encoder between them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.lineage import read_lineage
from modules.compatibility.safety import refuse_other_ancestors, refuse_suspicious
from modules.encoding.text_encoder import TextEncoder
from modules.errors import UserError
from modules.gram import gram_of
from modules.merging import MergeMethod
from modules.merging.granularity import groups_of
from modules.merging.statistics import read_statistics
from modules.positioning.merged_encoder import MergedEncoder
from modules.positioning.position import Position
from modules.positioning.task_vectors import Vectors, gram_matrices, prepare_vectors


@dataclass(frozen=True)
class Expert:
    """The origin of an expert: a path or a recipe. A plain string stands for a path.

    Args:
        path: a trained model's folder or hub name.
        recipe: the name of a recipe under ``recipes``, trained first where its result is not there yet.

    Example:
        >>> experts = {"sts": "experts/sts", "faq": Expert(recipe="faq")}
    """

    path: str | None = None
    recipe: str | None = None


def as_expert(given: Expert | str) -> Expert:
    """Return the expert that a recipe or a caller names; a plain string is its path."""
    return Expert(path=given) if isinstance(given, str) else given


def expert_folders(experts: Mapping[str, Expert | str]) -> dict[str, str]:
    """Return the folder or hub name of every expert.

    Args:
        experts: by name.

    Raises:
        UserError: there is no expert, or one of them has no path yet.
    """
    folders = {}
    for name, expert in experts.items():
        path = as_expert(expert).path
        if path is None:
            raise UserError(f"expert '{name}' has no path; a recipe is trained by `python -m lightning_app fit`")
        folders[name] = path
    if not folders:
        raise UserError("a merge needs at least one expert")
    return folders


def refuse_wrong_experts(base: TextEncoder, weights: str, experts: dict[str, str], vectors: Vectors) -> None:
    """Refuse experts that equal the base or each other, or come from another base; see `modules.compatibility.safety`.

    Args:
        base: theta_0.
        weights: identity of the base's weights.
        experts: name to folder.
        vectors: the task vectors of the experts.

    Raises:
        UserError: an expert is refused.
    """
    known = {name: read_lineage(find_base_model(path), rank_zero_info) for name, path in experts.items()}
    refuse_other_ancestors(weights, known)
    if not vectors:
        return  # `merged_encoder` refuses it, insisted or not
    gram = gram_matrices(vectors, dict.fromkeys(vectors, "model"))[0]
    norm = math.sqrt(sum(float(gram_of(weight[None])) for weight in base.parameters()))
    refuse_suspicious(gram, norm, list(experts))


def merged_encoder(
    base: TextEncoder,
    vectors: Vectors,
    experts: dict[str, str],
    method: MergeMethod,
    granularity: int | str = "model",
    signed: bool = False,
) -> MergedEncoder:
    """Return an encoder at the start of a method's position.

    Args:
        base: theta_0.
        vectors: the task vectors, which a method may change in place.
        experts: name to folder; the folders have the statistics that a method needs.
        method: how task vectors are combined.
        granularity: see `groups_of`.
        signed: whether coefficients may be zero or negative.

    Raises:
        UserError: there is nothing to merge, or the method's order, statistics or granularity do not fit.
    """
    if not vectors:
        raise UserError("every expert equals the base: there is nothing to merge")
    statistics = read_statistics(method.statistics, list(experts.values())) if method.statistics else None
    prepared = prepare_vectors(method, vectors, statistics)
    groups = groups_of(vectors, granularity)
    grams = gram_matrices({name: of.vectors for name, of in prepared.items()}, groups)
    labels = list(dict.fromkeys(groups.values()))
    position = Position(method, grams, method.places(list(experts)), signed=signed, labels=labels)
    return MergedEncoder(base, prepared, position, {name: labels.index(group) for name, group in groups.items()})
