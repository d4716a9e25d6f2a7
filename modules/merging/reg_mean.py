"""RegMean: the linear layer whose outputs are nearest to all experts' outputs."""

import torch
from torch import Tensor

from modules.errors import UserError
from modules.merging.merge_method import (
    MergeMethod,
    Preparation,
    Prepared,
    Statistics,
    Stream,
    check_fraction,
    normalised,
    register,
)


@register
class RegMean(MergeMethod):
    """``W = (sum_i G_i)^-1 sum_i G_i W_i`` for linear layers, with ``G_i = X_i^T X_i``; the average elsewhere.

    Jin et al. 2022, arXiv 2212.09849. ``X_i`` are the layer's inputs on expert i's own data, see
    `modules.merging.statistics`; ``G_i`` is the mean over its tokens, so that a large data set does not outweigh a
    small one, and its off-diagonal entries are multiplied with ``off_diagonal``. The contribution of an expert is
    linear in its weights; ``a`` weighs the contributions, and equal ``a`` give the formula.

    Args:
        off_diagonal: factor in (0, 1]; below 1 it keeps the sum of the Gram matrices well-conditioned.
        rows: number of each expert's training rows whose tokens are counted.

    Raises:
        UserError: `off_diagonal` is no fraction in (0, 1].

    Example:
        >>> experts = {"sts": "experts/sts", "faq": "experts/faq"}  # with statistics/input_gram.safetensors in each
        >>> merge = MergeModule("experts/base", experts, method=RegMean())
    """

    name = "reg_mean"
    formula = "linear layers with the outputs nearest to all experts' outputs; the average elsewhere"
    reference = "arXiv 2212.09849"
    statistics = "input_gram"

    def __init__(self, off_diagonal: float = 0.9, rows: int = 512) -> None:
        check_fraction(off_diagonal, "off_diagonal of RegMean")
        self.off_diagonal = off_diagonal
        self.rows = rows

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return ``a / sum(a)``: ``[..., N]``."""
        return normalised(a)

    def preparation(self, stream: Stream, statistics: Statistics | None = None) -> Preparation:
        """Return a preparation that replaces each task vector of a linear layer by N times its contribution.

        Raises:
            UserError: `statistics` is None.
        """
        if statistics is None:
            raise UserError("RegMean needs the layer inputs of every expert; none were collected")

        def prepare(name: str, vectors: Tensor) -> Prepared:
            grams = statistics(name)
            return Prepared(vectors if grams is None else self._contributions(vectors, grams.double()))

        return prepare

    def _contributions(self, vectors: Tensor, grams: Tensor) -> Tensor:
        """Return ``[N, out, in]`` from task vectors of that shape and Gram matrices ``[N, in, in]``."""
        scaled, cholesky = _factorised(grams, self.off_diagonal)
        size = grams.shape[-1]
        factor = torch.cholesky_solve(scaled.transpose(0, 1).reshape(size, -1), cholesky)
        factors = factor.reshape(size, len(vectors), size).transpose(0, 1)  # [N, in, in]
        return (len(vectors) * vectors.double() @ factors.transpose(1, 2)).to(vectors.dtype)


def _factorised(grams: Tensor, off_diagonal: float) -> tuple[Tensor, Tensor]:
    """Return Gram matrices with scaled off-diagonals ``[N, in, in]``, and the Cholesky factor of their sum."""
    diagonal = torch.diag_embed(grams.diagonal(dim1=1, dim2=2))
    scaled = off_diagonal * grams + (1 - off_diagonal) * diagonal
    total = scaled.sum(0)
    # Inputs that are always zero leave a row of zeros; the base's weights stay there.
    cholesky, failed = torch.linalg.cholesky_ex(total + torch.diag((total.diagonal() == 0).to(total.dtype)))
    if failed:  # collected in float32, which can cost definiteness: a little off the off-diagonals gives it back
        return _factorised(grams, min(off_diagonal, 1 - 1e-5) ** 2)
    return scaled, cholesky
