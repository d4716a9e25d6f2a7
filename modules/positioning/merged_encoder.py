"""An encoder that stands at a learnable position between experts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from modules.encoding.encode import EncodeOptions
from modules.encoding.features import Features
from modules.encoding.text_encoder import TextEncoder
from modules.encoding.text_tokenizer import TextTokenizer
from modules.encoding.tokenization import Tokenization
from modules.full_precision import float32_or_better
from modules.merging.combine import attach_coefficients, combine
from modules.merging.merge_method import Prepared
from modules.positioning.merged_table import MergedTable
from modules.positioning.position import Position
from modules.positioning.recompute import checkpointed_in_evaluation, checkpointing_layers
from modules.positioning.stand_in import StandIn


class MergedEncoder(nn.Module):
    """``theta_0 + V(c)``, with frozen ``theta_0`` and task vectors, and a trainable `Position` that gives ``c``.

    Weights are merged and tied to the position when the coefficients have changed since the last forward pass, which is
    once per optimiser step however many micro-batches it accumulates; embedding tables at each lookup, only the rows
    looked up.

    Args:
        base: theta_0; its parameters are frozen here.
        vectors: changed parameter of the backbone to its prepared task vectors, ``[N, *shape]``.
        position: gives the coefficients.
        groups: each of these parameters to the number of its group in `position`; None: there is one group.
    """

    def __init__(
        self,
        base: TextEncoder,
        vectors: Mapping[str, Prepared],
        position: Position,
        groups: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False).eval()
        self.names = list(vectors)
        # Frozen parameters follow the module to its device and can be sharded, which plain tensors do not.
        self.vectors = _frozen({name: prepared.vectors for name, prepared in vectors.items()})
        self.importances = _frozen({n: p.importance for n, p in vectors.items() if p.importance is not None})
        self.position = position
        self.groups = [0 if groups is None else groups[name] for name in self.names]
        self._own = {name: weight for name, weight in base.weights().items() if name in vectors}
        tables = {id(module.weight) for module in base.modules() if isinstance(module, nn.Embedding)}
        self.tables = {name for name in self.names if id(self._own[name]) in tables}
        self._stand_in = StandIn(self.base, self._own)
        self._layers = checkpointing_layers(self.base)
        self._merged: tuple[Tensor, torch.device, torch.dtype, dict[str, Tensor]] | None = None
        self._tied: tuple[Tensor, dict[str, Tensor]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy: everything but the merged weights, which are tied to this position."""
        return self.__dict__ | {"_merged": None, "_tied": None}

    def forward(self, features: Features) -> Tensor:
        """Embed tokenised texts at the current position: ``[batch, dim]``; differentiable in the position."""
        weights = self._weights()
        with self._stand_in.in_forward(weights), checkpointed_in_evaluation(self._layers):
            embeddings: Tensor = self.base(features)
        if embeddings.requires_grad:
            embeddings.register_hook(lambda _: self._stand_in.in_backward(weights))
        return embeddings

    def _weights(self) -> dict[str, Tensor]:
        """Return the weights at the current position; where gradients are enabled, tied to it once per position."""
        c = self._coefficients()
        merged = self._merge(c)
        if not torch.is_grad_enabled():
            return self._tie(merged)
        # The same tensor, not an equal one: equal coefficients of other numbers have other derivatives.
        if self._tied is None or self._tied[0] is not c:
            self._tied = c, self._tie(merged)
        return self._tied[1]

    def _tie(self, merged: Mapping[str, Tensor]) -> dict[str, Tensor]:
        c = self.position.coefficients(like=float32_or_better(self._first[:0])).unbind()
        return {name: self._weight(name, c[group], merged) for name, group in self._with_groups()}

    def _weight(self, name: str, c: Tensor, merged: Mapping[str, Tensor]) -> Tensor:
        """Return the weight that forward passes use, tied to its coefficients ``[N]``."""
        prepared = self._prepared(name)
        if name in self.tables:
            return MergedTable.of(self._own[name], prepared, c)
        return attach_coefficients(c, merged[name], *prepared)

    @torch.no_grad()
    def _coefficients(self) -> Tensor:
        """Return ``[G, N]`` float64, on the CPU; the same tensor until the position's numbers change."""
        return self.position.coefficients()

    def _merge(self, c: Tensor) -> dict[str, Tensor]:
        """Return the merged tensors at `c`, tables aside; they are kept until `c`, the device or the dtype changes."""
        device, dtype = self._first.device, self._first.dtype
        if self._merged is not None and torch.equal(self._merged[0], c) and self._merged[1:3] == (device, dtype):
            return self._merged[3]
        self._merged = self._tied = None  # before new weights are made: two merged models need not be in memory
        there = c.to(float32_or_better(self._first[:0]), non_blocking=True)  # all at once, not tensor by tensor
        merged = {
            name: self._combined(name, there[group]) for name, group in self._with_groups() if name not in self.tables
        }
        self._merged = c, device, dtype, merged
        return merged

    def _combined(self, name: str, c: Tensor) -> Tensor:
        with torch.inference_mode(False):  # tensors made in inference mode could not be trained through afterwards
            vectors, importance = self._prepared(name)
            return combine(self._own[name], vectors, c, importance)

    def _prepared(self, name: str) -> Prepared:
        key = _key(name)
        return Prepared(self.vectors[key], self.importances.get(key))

    @property
    def _first(self) -> Tensor:
        return self.vectors[_key(self.names[0])]

    def _with_groups(self) -> Iterator[tuple[str, int]]:
        return zip(self.names, self.groups, strict=True)

    def train(self, mode: bool = True) -> "MergedEncoder":
        """Stay in evaluation mode: a position is judged by the model that will be used, without dropout."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.base.device

    @property
    def prompts(self) -> dict[str, str]:
        """The base's prompts: name to prefix."""
        return self.base.prompts

    @property
    def default_prompt_name(self) -> str | None:
        """The name of the base's default prompt."""
        return self.base.default_prompt_name

    @property
    def similarity(self) -> str:
        """The sentence-transformers name of the base's similarity function."""
        return self.base.similarity

    @property
    def tokenizer(self) -> TextTokenizer:
        """The base's tokenizer."""
        return self.base.tokenizer

    @property
    def max_length(self) -> int:
        """The number of tokens that the base keeps of a text."""
        return self.base.max_length

    def tokenize(
        self, texts: Sequence[str], max_length: int | None = None, prompts: str | Sequence[str] = ""
    ) -> Features:
        """Tokenise texts as the base does; see `TextEncoder.tokenize`."""
        return self.base.tokenize(texts, max_length, prompts)

    def tokenization(self, max_length: int | None = None) -> Tokenization:
        """Return how the base tokenises."""
        return self.base.tokenization(max_length)

    def encode(self, texts: Sequence[str], prompt: str = "", **options: Unpack[EncodeOptions]) -> Tensor:
        """Embed texts at the current position: ``[len(texts), dim]``; see `TextEncoder.encode`."""
        return self.base.embed(self, texts, prompt, **options)

    def save(self, folder: str) -> None:
        """Write the model at the current position as a folder that ``SentenceTransformer(folder)`` loads."""
        c = self._coefficients()
        tables = {name: self._combined(name, c[group]) for name, group in self._with_groups() if name in self.tables}
        self.base.save(folder, self._merge(c) | tables)


def _frozen(tensors: Mapping[str, Tensor]) -> nn.ParameterDict:
    return nn.ParameterDict({_key(name): nn.Parameter(tensor, requires_grad=False) for name, tensor in tensors.items()})


def _key(name: str) -> str:
    """Return a parameter's name in the form that ParameterDict takes."""
    return name.replace(".", "/")
