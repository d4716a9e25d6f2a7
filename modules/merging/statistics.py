"""Statistics of every expert's data that merges by Fisher and RegMean read; `collect_statistics` writes them.

Shapes: N experts.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.identity import weights_identity
from modules.errors import UserError
from modules.merging.merge_method import Statistics

BASELINES = {"fisher": "fisher", "input_gram": "reg_mean"}
"""Kind of statistics to the baseline of a recipe that collects it."""


def read_statistics(kind: str, folders: Sequence[str]) -> Statistics:
    """Open the statistics of experts; each tensor is read when the returned function is called.

    Args:
        kind: ``fisher`` or ``input_gram``.
        folders: of the experts, or their hub names.

    Returns:
        A function from the name of a tensor to ``[N, ...]``, or to None where there are no statistics of it.

    Raises:
        UserError: an expert has no statistics, or those of other weights, or lacks tensors that another has.
    """
    files = [_open_statistics(kind, folder) for folder in folders]
    names = [set(file.keys()) for file in files]
    everything = set().union(*names)
    for folder, own in zip(folders, names, strict=True):
        if lacking := sorted(everything - own):
            some = ", ".join(lacking[:4])
            raise UserError(f"expert {folder}: {kind} statistics lack {some}, which another expert has; {_cure(kind)}")

    def stacked(name: str) -> Tensor | None:
        return torch.stack([file.get_tensor(name) for file in files]) if name in everything else None

    return stacked


def _open_statistics(kind: str, folder: str) -> safe_open:
    path = statistics_file(kind, find_base_model(folder))
    file = open_file(path)
    if file is None:
        raise UserError(f"expert {folder} has no {kind} statistics ({path}); {_cure(kind)}")
    if (file.metadata() or {}).get("weights") != weights_identity(folder):
        raise UserError(f"expert {folder}: its {kind} statistics were collected for other weights; {_cure(kind)}")
    return file


def _cure(kind: str) -> str:
    return f"they are collected where the expert is trained: run fit with baselines: [{BASELINES[kind]}]"


def statistics_file(kind: str, folder: str | Path) -> Path:
    """Return the path of an expert's statistics in its folder."""
    return Path(folder) / "statistics" / f"{kind}.safetensors"


def open_file(path: Path) -> safe_open | None:
    """Open a safetensors file; return None if it is missing or cannot be read."""
    try:
        return safe_open(path, framework="pt")
    except (FileNotFoundError, SafetensorError):
        return None
