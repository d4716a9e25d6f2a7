"""The identity of a merge, which a checkpoint of its position keeps: models, method, search and settings."""

from collections.abc import Mapping
from typing import Any

from modules.errors import UserError
from modules.merging import MergeMethod
from modules.merging.describe import describe, in_words
from modules.search import Search

WEIGHTS = "weights of "


def merge_identity(
    base: str, experts: Mapping[str, str], method: MergeMethod, search: Search, **settings: Any
) -> dict[str, Any]:
    """Return the identity of a merge, in plain values.

    Args:
        base: identity of the base's weights.
        experts: name to the identity of the expert's weights, in the order of the merge.
        method: how the task vectors are combined.
        search: how the numbers are found.
        settings: of the `MergeModule`.
    """
    theirs = {f"{WEIGHTS}'{name}'": weights for name, weights in experts.items()}
    models = {"experts": list(experts), f"{WEIGHTS}the base": base, **theirs}
    return models | {"method": describe(method), "search": describe(search)} | settings


def refuse_other_merge(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another merge.

    Args:
        saved: the identity in the checkpoint.
        own: the identity of the module that loads it.

    Raises:
        UserError: the identities differ; the message has the first difference.
    """
    for key in (*own, *saved):
        there, here = saved.get(key), own.get(key)
        if there != here:
            raise UserError(
                f"the checkpoint is one of another merge: its {key} is {_shown(key, there)}, here it is "
                f"{_shown(key, here)}; start without it, or merge as it was"
            )


def _shown(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return in_words(value)
    if key.startswith(WEIGHTS) and value is not None:
        return str(value)[:12]
    return ", ".join(value) if isinstance(value, list) else str(value)
