"""The plan of a merge on disk: its models, its method and their settings.

Shapes: N experts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.checkpoints.checkpoint_io import MAX_SHARD_BYTES
from modules.errors import UserError
from modules.merging.merge_method import MergeMethod
from modules.positioning.position import merge_coefficients


@dataclass(frozen=True)
class Plan:
    """The models of a merge, its method and their settings.

    Args:
        base: folder or hub name of theta_0.
        experts: name to folder or hub name of models, or to folders of LoRA adapters.
        method: of merging.
        a: the free numbers of the method, one per expert; None: the method's start.
        scale: factor of the merged task vector.
        c: group of tensors to expert to the factor of its prepared task vector, scale included, where a position was
            learned; `a` and `scale`, if given, only describe it then. Groups that are not named stay as in the base.
            None: the method's coefficients at `a`.
        granularity: ``model``, ``layer``, ``tensor`` or a number of groups of layers, each with its own angles.
        dtype: of the merged weights; None: each as in the base, or float32 where that would round away too much.
        max_shard_bytes: largest size of an output file.
        allow_suspicious: merge experts that equal the base or each other, or come from another base.
        adapter_rank: write one adapter of this rank instead of a whole model.
        settings_of: ``base`` or the name of the expert whose longest text and prompts the merged model takes, where
            models differ in them; None: they must agree.
    """

    base: str
    experts: Mapping[str, str]
    method: MergeMethod
    a: Sequence[float] | None = None
    scale: float = 1.0
    granularity: str | int = "model"
    dtype: torch.dtype | None = None
    max_shard_bytes: int = MAX_SHARD_BYTES
    allow_suspicious: bool = False
    adapter_rank: int | None = None
    settings_of: str | None = None
    c: Mapping[str, Mapping[str, float]] | None = None

    def coefficients(self, gram: Tensor, groups: Sequence[str] = ()) -> Tensor:
        """Return the coefficients of the task vectors, scale included: ``[..., N]`` float64.

        Args:
            gram: ``[..., N, N]``, the Gram matrix of each group.
            groups: their names, which learned coefficients are found by.

        Raises:
            UserError: the method's order does not fit the experts; or `a` does not, names no direction, or is not
                finite.
        """
        names = list(self.experts)
        places = self.method.places(names)
        if self.a is not None and len(self.a) != len(names):
            raise UserError(f"{len(self.a)} coefficients are given for {len(names)} experts; give one each")
        if self.c is not None:
            learned = [[self.c.get(group, {}).get(name, 0.0) for name in names] for group in groups]
            return torch.tensor(learned, dtype=torch.float64)
        a = self.method.initial(len(names)) if self.a is None else torch.tensor(self.a, dtype=torch.float64)
        c = self.scale * merge_coefficients(self.method, a.expand(gram.shape[:-1]), gram, places)
        if not torch.isfinite(c).all():
            raise UserError(f"the coefficients {a.tolist()} with scale {self.scale} are not finite; give numbers")
        return c
