"""The loss of writing merged weights in a narrower dtype than they are computed in."""

import math

import torch
from torch import Tensor

from modules.checkpoints.checkpoint_io import CHUNK

NEGLIGIBLE = 0.01
"""Fraction of the merged task vector that may be rounded away without a message."""


def is_narrow(dtype: torch.dtype) -> bool:
    """Return whether weights computed in float32 are rounded to be written in a dtype."""
    return dtype.is_floating_point and dtype.itemsize < torch.float32.itemsize


class Rounding:
    """The relative Frobenius error of a rounded merge, against the merged task vector, over all tensors."""

    def __init__(self) -> None:
        self.dtypes: list[str] = []
        """Names of the narrow dtypes."""
        self._lost = 0.0
        self._whole = 0.0

    def add(self, base: Tensor, merged: Tensor, dtype: torch.dtype) -> None:
        """Add the error of a tensor.

        Args:
            base: the tensor in theta_0, float32.
            merged: the merged tensor, float32.
            dtype: that the merged tensor is written in.
        """
        if is_narrow(dtype) and (name := str(dtype)[6:]) not in self.dtypes:
            self.dtypes.append(name)
        for ours, theirs in zip(merged.flatten().split(CHUNK), base.flatten().split(CHUNK), strict=True):
            if is_narrow(dtype):
                self._lost += _square(ours.to(dtype).float() - ours)
            self._whole += _square(ours - theirs)

    @property
    def lost(self) -> float:
        """The fraction that is rounded away; 0 where there is no task vector to lose."""
        return math.sqrt(self._lost / self._whole) if self._whole else 0.0


def _square(difference: Tensor) -> float:
    return float(torch.linalg.vector_norm(difference, dtype=torch.float64)) ** 2
