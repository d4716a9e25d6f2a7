"""Tiny models on disk, and their weights as they lie there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.tiny_encoder import tiny_encoder

UNTOUCHED = "embeddings.position_embeddings.weight"
"""The tensor that no expert changes."""

State = dict[str, Tensor]


def save_models(folder: Path, experts: int = 2) -> tuple[str, dict[str, str]]:
    """A base, and experts that are a small random step away from it."""
    tiny_encoder().save(folder / "base")
    for i in range(experts):
        expert = tiny_encoder()
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for name, weight in expert.backbone.named_parameters():
                if name != UNTOUCHED:
                    weight.add_(torch.randn(weight.shape, generator=generator) * 0.005 * (i + 1))
        expert.save(folder / f"e{i}")
    return str(folder / "base"), {f"e{i}": str(folder / f"e{i}") for i in range(experts)}


def read_weights(folder: str | Path) -> State:
    return {key: t for file in sorted(Path(folder).glob("*.safetensors")) for key, t in load_file(file).items()}


def write_weights(folder: str | Path, state: State) -> None:
    """Replace a folder's weights by one file."""
    for file in Path(folder).glob("*.safetensors"):
        file.unlink()
    save_file({key: t.contiguous() for key, t in state.items()}, Path(folder) / "model.safetensors")


def edit_json(path: str | Path, **changes: Any) -> None:
    path = Path(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flat(state: State) -> np.ndarray:
    """All weights as one float64 vector."""
    return np.concatenate([state[key].double().numpy().ravel() for key in sorted(state)])


def flat_task_vectors(base: str, experts: dict[str, str]) -> np.ndarray:
    return np.stack([flat(read_weights(folder)) - flat(read_weights(base)) for folder in experts.values()])
