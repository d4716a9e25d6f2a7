"""Statistics of an expert's data for Fisher and RegMean: collected in one pass, and kept beside the expert.

Shapes: batch (rows), in (inputs of a linear layer).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call
from tqdm.auto import tqdm

from modules.checkpoints.identity import weights_identity
from modules.encoding.by_length import part_of
from modules.encoding.features import Features
from modules.encoding.text_encoder import TextEncoder
from modules.errors import UserError
from modules.evaluation_mode import evaluation_mode
from modules.losses import make_loss
from modules.losses.task_batch import NO_TEXT, TaskBatch
from modules.merging.statistics import open_file, statistics_file


def collect_fisher(encoder: TextEncoder, batches: Iterable[TaskBatch], *, progress: bool = False) -> dict[str, Tensor]:
    """Return the diagonal empirical Fisher information: the mean over rows of the squared gradient of a row's loss.

    A row's loss (`Loss.row_loss`) depends on the weights through the embeddings of its anchor and positive (both
    sentences of a graded pair, the text of a labelled row). The texts that they are compared with, the row's own hard
    negatives too, are constant, so that a gradient belongs to one row.

    Args:
        encoder: at the weights of interest; used without dropout and left as it is.
        batches: of the data; a row's negatives come from its batch.
        progress: show a bar.

    Returns:
        Canonical name of each parameter to a tensor of its shape, float32 or better; zero where no gradient
        arrives, as in a pooler.

    Raises:
        UserError: there are no rows.
    """
    weights = {name: weight.detach().requires_grad_() for name, weight in encoder.weights().items()}
    sums = [torch.zeros_like(w, dtype=_accumulator(w)) for w in weights.values()]
    rows = 0
    with evaluation_mode(encoder):
        for batch in tqdm(batches, desc="Fisher information", unit="batch", disable=not progress, leave=False):
            for gradients in _row_gradients(encoder, weights, batch.to(encoder.device)):
                for total, gradient in zip(sums, gradients, strict=True):
                    total += gradient.to(total.dtype).square()
            rows += len(batch)
    if rows == 0:
        raise UserError("there are no rows to estimate the Fisher information from")
    return {name: total / rows for name, total in zip(weights, sums, strict=True)}


def _row_gradients(encoder: TextEncoder, weights: dict[str, Tensor], batch: TaskBatch) -> Iterator[tuple[Tensor, ...]]:
    """Yield the gradient of every row's loss with respect to `weights`, in their order."""
    with torch.no_grad():
        constant = [encoder(features) for features in batch.features]
    named = {encoder.qualified(name): weight for name, weight in weights.items()}
    for row in range(len(batch)):
        columns = list(constant)
        for i, features in enumerate(batch.features[:2]):  # later columns are hard negatives
            own = functional_call(encoder, named, (_one_row(features, row),))
            columns[i] = torch.cat([constant[i][:row], own, constant[i][row + 1 :]])
        loss = make_loss(batch.loss).row_loss(columns, batch, row)
        yield torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)


def _one_row(features: Features, row: int) -> Features:
    """Return one text without the padding that its batch gave it."""
    tokens = features["attention_mask"][row].bool()
    return part_of(features, slice(row, row + 1), tokens)


@torch.no_grad()
def collect_input_grams(
    encoder: TextEncoder, batches: Iterable[TaskBatch], *, progress: bool = False
) -> dict[str, Tensor]:
    """Return the mean of ``x x^T`` over the tokens that enter each linear layer; padding does not count.

    Nor does what stands in the place of a negative that a row lacks.

    Args:
        encoder: used without dropout and left as it is.
        batches: of the data; all their text columns count.
        progress: show a bar.

    Returns:
        Canonical name of the weight of each linear layer to ``[in, in]``, float32 or better. Layers that do not
        see one vector per token, as a pooler, are left out.

    Raises:
        UserError: there are no rows.
    """
    grams = _InputGrams()
    with evaluation_mode(encoder), grams.watching(encoder):
        for batch in tqdm(batches, desc="layer inputs", unit="batch", disable=not progress, leave=False):
            moved = batch.to(encoder.device)
            for features, ids in zip(moved.features, moved.text_ids, strict=True):
                grams.mask = features["attention_mask"].bool() & (ids != NO_TEXT)[:, None]
                encoder(features)
    if not grams.sums:
        raise UserError("there are no rows to take layer inputs from")
    return {name: total / grams.tokens[name] for name, total in grams.sums.items()}


class _InputGrams:
    """Sums ``x x^T`` over the tokens that enter linear layers.

    Attributes:
        mask: ``[batch, length]`` bool, the tokens of the present forward pass that are no padding.
        sums: name of a layer's weight to ``[in, in]``.
        tokens: name of a layer's weight to the number of tokens added up.
    """

    def __init__(self) -> None:
        self.mask = torch.empty(0, 0, dtype=torch.bool)
        self.sums: dict[str, Tensor] = {}
        self.tokens: dict[str, int] = {}

    @contextmanager
    def watching(self, encoder: TextEncoder) -> Iterator[None]:
        """Add up the inputs of all linear layers of an encoder within the block."""
        names = {encoder.qualified(name): name for name in encoder.weights()}
        with ExitStack() as hooks:
            for place, layer in encoder.named_modules():
                if isinstance(layer, nn.Linear):
                    hooks.callback(layer.register_forward_pre_hook(self._hook(names[f"{place}.weight"])).remove)
            yield

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].shape[:-1] != self.mask.shape:
                return
            x = inputs[0][self.mask].to(_accumulator(inputs[0]))
            self.sums[name] = self.sums.get(name, 0) + x.T @ x
            self.tokens[name] = self.tokens.get(name, 0) + len(x)

        return add


def _accumulator(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


_COLLECTORS = {"fisher": collect_fisher, "input_gram": collect_input_grams}


def collect_statistics(
    kind: str,
    encoder: TextEncoder,
    folder: str | Path,
    batches: Callable[[], Iterable[TaskBatch]],
    *,
    fingerprint: str,
    progress: bool = True,
) -> Path:
    """Collect an expert's statistics beside its weights, unless they are there for these weights and this data.

    Args:
        kind: ``fisher`` or ``input_gram``.
        encoder: the expert, as loaded from `folder`.
        folder: of the expert.
        batches: makes the batches; called only if they are needed.
        fingerprint: identifies the data and its cut into batches.
        progress: show a bar.

    Returns:
        ``<folder>/statistics/<kind>.safetensors``; it is whole whenever it exists.

    Raises:
        UserError: there are no rows.
    """
    path = statistics_file(kind, folder)
    metadata = {"fingerprint": fingerprint, "weights": weights_identity(folder)}
    found = open_file(path)
    if found is not None and found.metadata() == metadata:
        return path
    tensors = _COLLECTORS[kind](encoder, batches(), progress=progress)
    path.parent.mkdir(exist_ok=True)
    aside = path.with_suffix(".tmp")
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, aside, metadata)
    aside.replace(path)
    return path
