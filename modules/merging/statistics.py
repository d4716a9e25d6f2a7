"""What Fisher and RegMean need of every expert's data: collected in one pass, kept beside the expert, read by merges.

Shapes: N experts, batch (rows), dim, in (inputs of a linear layer).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call
from tqdm.auto import tqdm

from modules.checkpoints.base_model import find_base_model, weights_sha256
from modules.encoding.by_length import part_of
from modules.errors import UserError
from modules.evaluation_mode import evaluation_mode
from modules.losses.functional import cosent, info_nce, paired_cosines, same_text_mask, supervised_contrastive
from modules.losses.task_batch import Features, TaskBatch
from modules.merging.base import Statistics

if TYPE_CHECKING:
    from modules.encoding.text_encoder import TextEncoder

BASELINES = {"fisher": "fisher", "input_gram": "reg_mean"}
"""Kind of statistics to the baseline of a recipe that collects it."""


def collect_fisher(encoder: TextEncoder, batches: Iterable[TaskBatch], *, progress: bool = False) -> dict[str, Tensor]:
    """The diagonal empirical Fisher information: the mean over rows of the squared gradient of a row's loss.

    A row's loss depends on the weights through the embeddings of its anchor and positive (both sentences of a graded
    pair, the text of a labelled one). What they are compared with, the row's own hard negatives too, is constant, so
    that a gradient belongs to one row. The loss is InfoNCE's cross-entropy of the row; the supervised contrastive term
    of the row, which is 0 where no other row of the batch has its label; or CoSENT of the batch as a function of the
    row's similarity, times the rows, so that here too the batch's gradient is the mean of the rows'.

    Args:
        encoder: at the weights of interest; used without dropout and left as it is.
        batches: of the data; a row's negatives come from its batch.
        progress: show a bar.

    Returns:
        Name of each parameter of the backbone to a tensor of its shape, float32 or better; zero where no gradient
        arrives, as in a pooler.

    Raises:
        UserError: there are no rows.
    """
    weights = {name: weight.detach().requires_grad_() for name, weight in encoder.backbone.named_parameters()}
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
    """The gradient of every row's loss with respect to `weights`, in their order."""
    with torch.no_grad():
        constant = [encoder(features) for features in batch.features]
    named = {f"backbone.{name}": weight for name, weight in weights.items()}
    for row in range(len(batch)):
        columns = list(constant)
        for i, features in enumerate(batch.features[:2]):  # later columns are hard negatives
            own = functional_call(encoder, named, (_one_row(features, row),))
            columns[i] = torch.cat([constant[i][:row], own, constant[i][row + 1 :]])
        loss = _ROW_LOSSES[batch.loss.name](columns, batch, row)
        yield torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)


def _one_row(features: Features, row: int) -> Features:
    """A text without the padding that its batch gave it."""
    tokens = features["attention_mask"][row].bool()
    return part_of(features, slice(row, row + 1), tokens)


def _info_nce(columns: list[Tensor], batch: TaskBatch, row: int) -> Tensor:
    own = torch.tensor([row], device=batch.text_ids.device)
    anchor_ids, *candidate_ids = batch.text_ids
    excluded = same_text_mask(anchor_ids[own], anchor_ids, torch.cat(candidate_ids), own)
    return info_nce(columns[0][own], torch.cat(columns[1:]), own, excluded, batch.loss.temperature)


def _cosent(columns: list[Tensor], batch: TaskBatch, row: int) -> Tensor:
    assert batch.target is not None
    return len(batch) * cosent(paired_cosines(columns[0], columns[1]), batch.target, batch.loss.temperature)


def _supcon(columns: list[Tensor], batch: TaskBatch, row: int) -> Tensor:
    assert batch.target is not None
    (texts,), labels = columns, batch.target
    own = torch.tensor([row], device=labels.device)
    return supervised_contrastive(texts[own], labels[own], texts, labels, own, batch.loss.temperature).sum()


_ROW_LOSSES = {"infonce": _info_nce, "cosent": _cosent, "supcon": _supcon}


@torch.no_grad()
def collect_input_grams(
    encoder: TextEncoder, batches: Iterable[TaskBatch], *, progress: bool = False
) -> dict[str, Tensor]:
    """The mean of ``x x^T`` over the tokens that enter each linear layer; padding does not count.

    Args:
        encoder: used without dropout and left as it is.
        batches: of the data; all their text columns count.
        progress: show a bar.

    Returns:
        Name of the weight of each linear layer of the backbone to ``[in, in]``, float32 or better. Layers that do not
        see one vector a token, as a pooler, are left out.

    Raises:
        UserError: there are no rows.
    """
    grams = _InputGrams()
    with evaluation_mode(encoder), grams.watching(encoder.backbone):
        for batch in tqdm(batches, desc="layer inputs", unit="batch", disable=not progress, leave=False):
            for features in batch.to(encoder.device).features:
                grams.mask = features["attention_mask"].bool()
                encoder(features)
    if not grams.sums:
        raise UserError("there are no rows to take layer inputs from")
    return {name: total / grams.tokens[name] for name, total in grams.sums.items()}


class _InputGrams:
    """Sums ``x x^T`` of what enters linear layers, token by token.

    Attributes:
        mask: ``[batch, length]`` bool, the tokens of the present forward pass that are no padding.
        sums: name of a layer's weight to ``[in, in]``.
        tokens: name of a layer's weight to how many were added up.
    """

    def __init__(self) -> None:
        self.mask = torch.empty(0, 0, dtype=torch.bool)
        self.sums: dict[str, Tensor] = {}
        self.tokens: dict[str, int] = {}

    @contextmanager
    def watching(self, backbone: nn.Module) -> Iterator[None]:
        """Look at the inputs of all linear layers of a backbone."""
        with ExitStack() as hooks:
            for name, layer in backbone.named_modules():
                if isinstance(layer, nn.Linear):
                    hooks.callback(layer.register_forward_pre_hook(self._hook(f"{name}.weight")).remove)
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
        fingerprint: tells the data, and how it is cut into batches, from any other.
        progress: show a bar.

    Returns:
        ``<folder>/statistics/<kind>.safetensors``; it is whole whenever it exists.

    Raises:
        UserError: there are no rows.
    """
    path = Path(folder) / "statistics" / f"{kind}.safetensors"
    metadata = {"fingerprint": fingerprint, "weights": weights_sha256(folder)}
    found = _open(path)
    if found is not None and found.metadata() == metadata:
        return path
    tensors = _COLLECTORS[kind](encoder, batches(), progress=progress)
    path.parent.mkdir(exist_ok=True)
    aside = path.with_suffix(".tmp")
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, aside, metadata)
    aside.replace(path)
    return path


def read_statistics(kind: str, folders: Sequence[str]) -> Statistics:
    """Open the statistics of experts; tensors are read when they are asked for.

    Args:
        kind: ``fisher`` or ``input_gram``.
        folders: of the experts, or their hub names.

    Returns:
        A function from the name of a tensor to ``[N, ...]``, or None if there is nothing of that name.

    Raises:
        UserError: an expert has none, or those of other weights, or lacks tensors that another has.
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
    path = find_base_model(folder) / "statistics" / f"{kind}.safetensors"
    file = _open(path)
    if file is None:
        raise UserError(f"expert {folder} has no {kind} statistics ({path}); {_cure(kind)}")
    if (file.metadata() or {}).get("weights") != weights_sha256(folder):
        raise UserError(f"expert {folder}: its {kind} statistics were collected for other weights; {_cure(kind)}")
    return file


def _cure(kind: str) -> str:
    return f"they are collected where the expert is trained: run fit with baselines: [{BASELINES[kind]}]"


def _open(path: Path) -> safe_open | None:
    """A safetensors file; None if there is none that can be read."""
    try:
        return safe_open(path, framework="pt")
    except (FileNotFoundError, SafetensorError):
        return None
