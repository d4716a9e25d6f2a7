"""Tensor maths, nn.Modules and LightningModules of the merge; needs neither datasets, mteb nor jsonargparse.

Names are imported when they are first used: merging files must not wait for transformers and Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modules.contrastive_module import ContrastiveModule
    from modules.encoding.text_encoder import TextEncoder
    from modules.errors import UserError
    from modules.losses.task_batch import LossConfig, TaskBatch
    from modules.merge_module import MergeModule
    from modules.merging import (
        Average,
        Dare,
        Fisher,
        MergeMethod,
        MultiSlerp,
        RegMean,
        Slerp,
        SphericalMean,
        TaskArithmetic,
        Ties,
    )
    from modules.positioning.experts import Expert
    from modules.search import Adam, Bfgs, CmaEs, Search

_HOMES = {
    "contrastive_module": ("ContrastiveModule",),
    "encoding.text_encoder": ("TextEncoder",),
    "errors": ("UserError",),
    "positioning.experts": ("Expert",),
    "merge_module": ("MergeModule",),
    "merging": (
        "Average",
        "Dare",
        "Fisher",
        "MergeMethod",
        "MultiSlerp",
        "RegMean",
        "Slerp",
        "SphericalMean",
        "TaskArithmetic",
        "Ties",
    ),
    "search": ("Adam", "Bfgs", "CmaEs", "Search"),
    "losses.task_batch": ("LossConfig", "TaskBatch"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Adam",
    "Average",
    "Bfgs",
    "CmaEs",
    "ContrastiveModule",
    "Dare",
    "Expert",
    "Fisher",
    "LossConfig",
    "MergeMethod",
    "MergeModule",
    "MultiSlerp",
    "RegMean",
    "Search",
    "Slerp",
    "SphericalMean",
    "TaskArithmetic",
    "TaskBatch",
    "TextEncoder",
    "Ties",
    "UserError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"modules.{_HOME[name]}"), name)
