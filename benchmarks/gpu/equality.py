"""The same numbers on a device as on the CPU: embeddings, losses, position gradients, merged weights."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.checks import Checks
from benchmarks.gpu.data import made_up_tasks
from datamodules import Collator
from modules import MergeModule, Slerp
from modules.distributed import local
from modules.losses.task_batch import TaskBatch
from modules.losses.task_loss import task_loss
from modules.merging.combine import combine
from modules.positioning.merged_encoder import MergedEncoder

TOLERANCES = {
    "float32": {"embeddings": 1e-5, "loss": 1e-4, "gradient": 1e-3, "weights": 1e-6},
    "bfloat16": {"embeddings": 2e-2, "loss": 2e-2, "gradient": 2e-1, "weights": 4e-3},
}
"""Relative differences from the CPU's float32. One rounding to bfloat16, which has 8 binary digits, is up to 4e-3; a
position's gradient is a sum of millions of terms that all but cancel, so roundings weigh twenty times as much in it."""

ROWS = 32


def check_equality(checks: Checks, base: Path, experts: dict[str, str], device: torch.device) -> None:
    """Compare a device in float32 without TF32, and in bfloat16 by autocast, with the CPU's float32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    module = MergeModule(str(base), experts, method=Slerp(), allow_suspicious=True)
    encoder = module.encoder
    assert isinstance(encoder, MergedEncoder)
    batches = _batches(encoder)
    expected = dict(_measure(encoder, batches, "float32"))
    for precision, tolerances in TOLERANCES.items():
        found = dict(_measure(encoder.to(device), batches, precision))
        for (kind, name), value in found.items():
            difference = _relative(value, expected[kind, name])
            checks.at_most(f"{kind}, {name}, {precision}", difference, tolerances[kind])


def _batches(encoder: MergedEncoder) -> list[TaskBatch]:
    """A batch for each loss, with texts of all lengths."""
    collate = [Collator([task.probe], encoder.tokenize) for task in made_up_tasks(expert=2, probe=ROWS, validation=2)]
    return [each([(0, row) for row in range(ROWS)]) for each in collate]


def _measure(
    encoder: MergedEncoder, batches: list[TaskBatch], precision: str
) -> Iterator[tuple[tuple[str, str], Tensor]]:
    """Kind and name to what is compared, where the encoder is."""
    bfloat16 = precision == "bfloat16"
    numbers = list(encoder.position.parameters())
    with torch.autocast(encoder.device.type, torch.bfloat16, enabled=bfloat16):
        for batch in (batch.to(encoder.device) for batch in batches):
            with torch.no_grad():
                yield ("embeddings", f"base, {batch.task}"), encoder.base(batch.features[0])
            output = task_loss(encoder, batch, local)
            gradients = torch.autograd.grad(output.loss, numbers)
            yield ("embeddings", f"merge, {batch.task}"), output.embeddings[0].detach()
            yield ("loss", batch.loss.name), output.loss.detach()
            yield ("gradient", batch.loss.name), torch.cat([g.flatten() for g in gradients])
    for name, weighted in (("sum", False), ("mean by importance", True)):
        yield ("weights", name), _merged_weights(encoder, torch.bfloat16 if bfloat16 else torch.float32, weighted)


@torch.no_grad()
def _merged_weights(encoder: MergedEncoder, dtype: torch.dtype, weighted: bool) -> Tensor:
    """All merged weights as one vector, of a base and task vectors of this dtype."""
    c = encoder.position.coefficients()[0]
    merged = []
    for name in encoder.names:
        base, vectors = encoder.base.weights()[name].to(dtype), encoder._prepared(name).vectors.to(dtype)
        merged.append(combine(base, vectors, c, vectors.abs() if weighted else None).flatten())
    return torch.cat(merged)


def _relative(found: Tensor, expected: Tensor) -> float:
    """The length of the difference, relative to that of what is expected."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())
