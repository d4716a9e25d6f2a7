"""Embedding tables merged only at the rows that are looked up."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.merging.combine import attach_coefficients, combine
from modules.merging.merge_method import Prepared


class MergedTable(Tensor):
    """Stands for the weight of an embedding; a lookup merges the rows that it needs, whatever module makes it.

    A vocabulary has tens of thousands of rows, a batch some hundred different tokens. Rows are merged by the one
    kernel, so they have the bits of a merge of the whole table.
    """

    vectors: Prepared
    coefficients: Tensor

    @staticmethod
    def of(base: Tensor, vectors: Prepared, coefficients: Tensor) -> "MergedTable":
        """Return the table of a merge.

        Args:
            base: ``[rows, dim]``.
            vectors: of this tensor, ``[N, rows, dim]``.
            coefficients: ``[N]``; lookups are differentiable in them.
        """
        table: MergedTable = Tensor._make_subclass(MergedTable, base.detach())
        table.vectors = vectors
        table.coefficients = coefficients
        return table

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer ``F.embedding`` and attributes like the dtype; give other functions the whole merged table."""
        if func is F.embedding:
            return cls._look_up(*args[:2])
        if func.__name__ != "__get__":  # the getter of an attribute
            args = tuple(arg.whole() if isinstance(arg, MergedTable) else arg for arg in args)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def whole(self) -> Tensor:
        """Return all rows, merged: ``[rows, dim]``."""
        return self._rows(slice(None))

    @staticmethod
    def _look_up(ids: Tensor, table: "MergedTable") -> Tensor:
        rows, places = ids.unique(return_inverse=True)
        return F.embedding(places, table._rows(rows))

    def _rows(self, rows: Tensor | slice) -> Tensor:
        """Return the given rows, merged and tied to their coefficients."""
        with torch._C.DisableTorchFunctionSubclass():
            base, vectors = self.as_subclass(Tensor)[rows], self.vectors.vectors[:, rows]
            importance = None if self.vectors.importance is None else self.vectors.importance[:, rows]
            merged = combine(base, vectors, self.coefficients.detach(), importance)
            return attach_coefficients(self.coefficients, merged, vectors, importance)
