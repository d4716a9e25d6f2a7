"""Contrastive training of an expert or a joint model, which differ only in their data sets."""

from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.identity import weights_identity
from modules.checkpoints.lineage import lineage_through, write_lineage
from modules.distributed import all_gather
from modules.embedding_module import EmbeddingModule
from modules.encoding.text_encoder import TextEncoder
from modules.errors import UserError
from modules.losses.task_batch import TaskBatch


class ContrastiveModule(EmbeddingModule):
    """Trains all weights of an encoder on one-data-set batches, each with its data set's own loss.

    Negatives are gathered over the processes of a data-parallel run, gradients included.

    Args:
        base: the model to start from: a folder or a hub name.
        pooling: for a base that does not say how it pools (a plain transformers checkpoint); see `load_pipeline`.
        lr: peak learning rate of AdamW.
        warmup: fraction of the steps over which the rate rises linearly to its peak; then it falls linearly to zero.
        weight_decay: of weight matrices and embeddings; biases and norms have none.
        trust_remote_code: let transformers run code that comes with the model.
        attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2``; None: transformers' default.
        optimizer: makes the optimizer from groups of parameters, with ``lr`` unless it has one of its own; None: AdamW.
        schedule: makes the schedule of the learning rate from the optimizer, stepped every optimiser step; None: linear
            warm-up and decay.

    Example:
        >>> expert = ContrastiveModule("base", lr=3e-5, optimizer=partial(torch.optim.Adafactor, weight_decay=0.01))
        >>> Trainer(max_steps=500).fit(expert, datamodule=TaskDataModule(tasks))
        >>> expert.save("experts/sts")
    """

    def __init__(
        self,
        base: str,
        pooling: str | None = None,
        lr: float = 2e-5,
        warmup: float = 0.1,
        weight_decay: float = 0.0,
        trust_remote_code: bool = False,
        attn_implementation: str | None = None,
        optimizer: Callable[..., Optimizer] | None = None,
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
    ) -> None:
        encoder = TextEncoder.load(
            base, pooling=pooling, trust_remote_code=trust_remote_code, attn_implementation=attn_implementation
        )
        super().__init__(encoder)
        self.ancestors = lineage_through(find_base_model(base), weights_identity(base), rank_zero_info)
        self.origin = base  # where the last of them lies
        self.lr = lr
        self.warmup = warmup
        self.weight_decay = weight_decay
        self._make_optimizer, self._make_schedule = optimizer, schedule
        self.encoder.train()  # transformers loads in evaluation mode, and Lightning keeps the mode it finds

    def on_fit_start(self) -> None:
        """Refuse weights of half precision; see `EmbeddingModule.on_fit_start` for the rest.

        Raises:
            UserError: the Trainer's precision keeps the weights in bfloat16 or float16.
        """
        if any(p.dtype in (torch.bfloat16, torch.float16) for p in self.parameters()):
            raise UserError(
                f"precision {self.trainer.precision} keeps the weights themselves in half precision, where most "
                "steps of AdamW are rounded away; use bf16-mixed"
            )
        super().on_fit_start()

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, with negatives from all processes, and log it."""
        output = self.training_loss(batch, all_gather)
        self.log_training(output, batch)
        return output.loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and its schedule: by default AdamW with linear warm-up and linear decay."""
        optimizer = self._optimizer()
        steps = self.trainer.estimated_stepping_batches
        schedule = (
            LambdaLR(optimizer, lambda step: warmup_factor(step, steps, self.warmup))
            if self._make_schedule is None
            else self._make_schedule(optimizer)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _optimizer(self) -> Optimizer:
        trained = [p for p in self.parameters() if p.requires_grad]
        if self._make_optimizer is not None:
            given = getattr(self._make_optimizer, "keywords", {})
            return self._make_optimizer(trained, **({} if "lr" in given else {"lr": self.lr}))
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        # The fused step is five times as fast on a CPU. Mixed precision refuses to clip what it may have unscaled.
        return AdamW(groups, lr=self.lr, fused=not self.trainer.gradient_clip_val)

    def save(self, folder: str | Path) -> None:
        """Write the encoder, with its lineage, as a folder that ``SentenceTransformer(folder)`` loads."""
        assert isinstance(self.encoder, TextEncoder)
        self.encoder.save(folder)
        write_lineage(folder, self.ancestors, self.origin)


def warmup_factor(step: int, steps: float, warmup: float) -> float:
    """Return the learning rate of a step as a fraction of its peak.

    Args:
        step: optimiser steps done.
        steps: optimiser steps in all; infinite for a run without an end, which keeps the peak.
        warmup: fraction of the steps over which the rate rises.
    """
    if steps == float("inf"):
        return 1.0
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return max(0.0, (steps - step) / max(1, steps - rising))
