"""The plan of a merge on disk: its models, its method and their settings.

Shapes: N experts.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from modules.checkpoints.checkpoint_io import MAX_SHARD_BYTES
from modules.errors import UserError
from modules.merging.granularity import groups_of
from modules.merging.merge_method import MergeMethod
from modules.positioning.position import merge_coefficients


class Group(NamedTuple):
    """A group of tensors that share one set of coefficients.

    Args:
        label: its name.
        expression: of the plan's `weights_by` that its numbers come from; None: they are the plan's `a`.
    """

    label: str
    expression: str | None


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
        weights_by: regular expression to free numbers in the place of `a`, for the tensors in whose name it is found;
            the first that is found counts. In each group they are a group of their own, with its own angles.
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
    weights_by: Mapping[str, Sequence[float]] = field(default_factory=dict)
    dtype: torch.dtype | None = None
    max_shard_bytes: int = MAX_SHARD_BYTES
    allow_suspicious: bool = False
    adapter_rank: int | None = None
    settings_of: str | None = None
    c: Mapping[str, Mapping[str, float]] | None = None

    def refuse_mistakes(self) -> None:
        """Refuse mistakes that show before any model is read.

        Raises:
            UserError: the method's order does not fit the experts, numbers do not, or an expression is none.
        """
        for expression in self.weights_by:
            try:
                re.compile(expression)
            except re.error as error:
                raise UserError(f"weights_by has '{expression}', which is no regular expression: {error}") from error
        groups = [Group("", expression) for expression in (None, *self.weights_by)]
        self.coefficients(torch.zeros(len(groups), len(self.experts), len(self.experts), dtype=torch.float64), groups)

    def groups(self, names: Iterable[str]) -> dict[str, Group]:
        """Assign every tensor to a group.

        Args:
            names: of the tensors.

        Returns:
            Tensor name to its group.

        Raises:
            UserError: see `modules.merging.granularity.groups_of`.
        """
        return {name: self._group(name, label) for name, label in groups_of(names, self.granularity).items()}

    def _group(self, name: str, label: str) -> Group:
        expression = next((found for found in self.weights_by if re.search(found, name)), None)
        if expression is None:
            return Group(label, None)
        return Group(expression if label == "model" else f"{label}: {expression}", expression)

    def coefficients(self, gram: Tensor, groups: Sequence[Group] | None = None) -> Tensor:
        """Return the coefficients of the task vectors, scale included: ``[..., N]`` float64.

        Args:
            gram: ``[..., N, N]``, the Gram matrix of each group.
            groups: the groups, where `gram` has a dimension for them; None: all have the numbers `a`.

        Raises:
            UserError: the method's order does not fit the experts; or the free numbers do not, name no direction, or
                are not finite.
        """
        names = list(self.experts)
        places = self.method.places(names)
        if self.c is not None:
            labels = [group.label for group in groups or ()]
            learned = [[self.c.get(label, {}).get(name, 0.0) for name in names] for label in labels]
            return torch.tensor(learned, dtype=torch.float64)
        numbers = [self._numbers(group.expression) for group in groups] if groups else [self._numbers(None)]
        a = torch.stack(numbers) if groups else numbers[0].expand(gram.shape[:-1])
        c = self.scale * merge_coefficients(self.method, a, gram, places)
        if not torch.isfinite(c).all():
            bad = next((number for number in numbers if not torch.isfinite(number).all()), numbers[0]).tolist()
            raise UserError(f"the coefficients {bad} with scale {self.scale} are not finite; give numbers")
        return c

    def _numbers(self, expression: str | None) -> Tensor:
        """Return the free numbers of the tensors with this expression; None: of the tensors with none."""
        count, given = len(self.experts), self.a if expression is None else self.weights_by[expression]
        if given is None:
            return self.method.initial(count)
        if len(given) != count:
            where = "" if expression is None else f"weights_by '{expression}': "
            raise UserError(f"{where}{len(given)} coefficients are given for {count} experts; give one each")
        return torch.tensor(given, dtype=torch.float64)
