"""An encoder that stands at a learnable position between experts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from modules.combine import attach_coefficients, combine
from modules.encode import encode_texts
from modules.encoder import TextEncoder
from modules.position import Position
from modules.st_folder import EncoderConfig
from modules.task_batch import Features
from modules.task_vectors import Vectors


class MergedEncoder(nn.Module):
    """``theta_0 + sum_i c_i V_i``, with frozen ``theta_0`` and ``V``, and a trainable `Position` that gives ``c``.

    Weights are merged when the coefficients have changed since the last forward pass, which is once per optimiser
    step however many micro-batches it accumulates.

    Args:
        base: theta_0; its parameters are frozen here.
        vectors: the task vectors, ``[N, *shape]`` per changed parameter.
        position: where to stand.
    """

    def __init__(self, base: TextEncoder, vectors: Vectors, position: Position) -> None:
        super().__init__()
        self.base = base.requires_grad_(False).eval()
        self.names = list(vectors)
        # Frozen parameters follow the module to its device and can be sharded, which plain tensors do not.
        self.vectors = nn.ParameterList([nn.Parameter(v, requires_grad=False) for v in vectors.values()])
        self.position = position
        self._merged: tuple[Tensor, list[Tensor]] | None = None

    def forward(self, features: Features) -> Tensor:
        """Embed tokenised texts at the current position: ``[batch, dim]``; differentiable in the position."""
        c = self.position.coefficients()
        weights = {
            name: attach_coefficients(c, merged, vectors)
            for name, merged, vectors in zip(self.names, self._merge(c.detach()), self.vectors, strict=True)
        }
        embeddings: Tensor = functional_call(self.base, weights, (features,))
        return embeddings

    def _merge(self, c: Tensor) -> list[Tensor]:
        """The merged tensors at `c`, kept until another `c` (or device, or dtype) is asked for."""
        first = self.vectors[0]
        kept = self._merged
        if kept and torch.equal(kept[0], c) and kept[1][0].device == first.device and kept[1][0].dtype == first.dtype:
            return kept[1]
        self._merged = None  # before the new ones are made: two merged models need not be in memory
        with torch.inference_mode(False):  # what is made in inference mode could not be trained through afterwards
            merged = [combine(self.base.get_parameter(n), v, c) for n, v in zip(self.names, self.vectors, strict=True)]
        self._merged = c, merged
        return merged

    def train(self, mode: bool = True) -> "MergedEncoder":
        """Stay in evaluation mode: a position is judged by the model that will be used, without dropout."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.base.device

    @property
    def config(self) -> EncoderConfig:
        """Pooling, prompts and the rest, those of the base."""
        return self.base.config

    def tokenize(self, texts: Sequence[str], max_length: int | None = None) -> Features:
        """Tokenise as the base does."""
        return self.base.tokenize(texts, max_length)

    def encode(self, texts: Sequence[str], *, batch_size: int = 64, progress: bool = False) -> Tensor:
        """Embed texts at the current position: ``[len(texts), dim]``. See `encode_texts`."""
        return encode_texts(self, self.tokenize, texts, self.device, batch_size=batch_size, progress=progress)

    def save(self, folder: str) -> None:
        """Write the model at the current position as a folder that ``SentenceTransformer(folder)`` loads."""
        merged = dict(zip(self.names, self._merge(self.position.coefficients().detach()), strict=True))
        prefix = "backbone."
        state = {name: merged.get(prefix + name, weight) for name, weight in self.base.backbone.state_dict().items()}
        self.base.save(folder, state)
