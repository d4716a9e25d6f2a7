"""What experts, joint models and positions share: an encoder, and validation data set by data set."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from modules.distributed import Gather, fail_together, local
from modules.encoding.prompts import Side, describe_prompts, prompts_by_side, trained_prompts
from modules.encoding.text_encoder import TextEncoder
from modules.encoding.tokenization import Tokenization
from modules.errors import UserError
from modules.losses.metrics import TaskMetrics
from modules.losses.task_batch import TaskBatch
from modules.losses.task_loss import TaskOutput, task_loss
from modules.positioning.merged_encoder import MergedEncoder
from modules.say_once import say_once

SHOWN = 8
"""Rows that a message names at most."""


class EmbeddingModule(LightningModule):
    """A LightningModule around an encoder.

    It trains with a data module that maps the name of each data set to its loss (``task_losses``) and to its prompts
    (``side_prompts``), in the order of the validation loaders.

    Args:
        encoder: the model to train and validate.

    Example:
        >>> module = EmbeddingModule(TextEncoder.load("experts/sts"))
        >>> Trainer().validate(module, datamodule=TaskDataModule(tasks))
    """

    def __init__(self, encoder: TextEncoder | MergedEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.task_metrics = nn.ModuleList()

    @property
    def task_losses(self) -> dict[str, str]:
        """Name of each data set to name of its loss, as the data module says."""
        losses: dict[str, str] = self._ask_data("task_losses")
        return losses

    def _ask_data(self, name: str) -> Any:
        found = getattr(getattr(self.trainer, "datamodule", None), name, None)
        if found is None:
            raise UserError(f"{type(self).__name__} needs a TaskDataModule or a ProbeDataModule as its datamodule")
        return found

    def tokenization(self, max_length: int | None = None) -> Tokenization:
        """Return how the encoder tokenises; data modules ask for it."""
        return self.encoder.tokenization(max_length)

    @property
    def side_prompts(self) -> dict[Side, str]:
        """The prefixes that the encoder adds; data modules put them before texts that have none of their own."""
        return prompts_by_side(self.encoder.prompts, self.encoder.default_prompt_name)

    def on_fit_start(self) -> None:
        """Say which prompts each data set is trained with, and take them over."""
        data: dict[str, dict[Side, str | None]] = self._ask_data("side_prompts")
        for name, prompts in data.items():
            say_once(f"  {name}: {describe_prompts(prompts)}")
        self.take_prompts(data)

    def take_prompts(self, data: Mapping[str, Mapping[Side, str | None]]) -> None:
        """Have the encoder, and the model that is saved of it, name the prompts that it is trained with.

        Args:
            data: data set to its prompts, see `trained_prompts`.
        """
        prompts, default_name, lines = trained_prompts(self.encoder.prompts, self.encoder.default_prompt_name, data)
        self.set_prompts(prompts, default_name)
        for line in lines:
            say_once(line)

    def set_prompts(self, prompts: Mapping[str, str], default_name: str | None) -> None:
        """Replace the encoder's prompts.

        Args:
            prompts: name to prefix.
            default_name: name of the default prompt; None: there is none.
        """
        encoder = self.encoder.base if isinstance(self.encoder, MergedEncoder) else self.encoder
        encoder.take_settings({"prompts": dict(prompts), "default_prompt_name": default_name})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the prompts, which are no weights."""
        checkpoint["prompts"] = {"prompts": self.encoder.prompts, "default_name": self.encoder.default_prompt_name}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the prompts that the weights were trained with."""
        if "prompts" in checkpoint:
            self.set_prompts(**checkpoint["prompts"])

    def on_validation_start(self) -> None:
        """Make one set of metrics per data set.

        They are those of this validation only: of its data sets, and of tensors that a later one can change.
        """
        with torch.inference_mode(False):
            metrics = [TaskMetrics(loss) for loss in self.task_losses.values()]
            self.task_metrics = nn.ModuleList(metrics).to(self.device)

    def validation_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to its data set's metrics; negatives are those of this process."""
        self._metrics_of(dataloader_idx).update(task_loss(self.encoder, batch, local), batch)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/<data set>/<metric>``, and ``val/loss``, their mean loss."""
        losses = []
        for i, task in enumerate(self.task_losses):
            values = self._metrics_of(i).compute()
            self.log_dict({f"val/{task}/{name}": value for name, value in values.items()}, sync_dist=True)
            losses.append(values["loss"])
        self.task_metrics = nn.ModuleList()
        self.log("val/loss", self.validation_objective(torch.stack(losses)), prog_bar=True, sync_dist=True)

    def validation_objective(self, losses: Tensor) -> Tensor:
        """Return ``val/loss``, on the device of the losses, given the mean loss of each data set: their mean."""
        return losses.mean()

    def training_loss(self, batch: TaskBatch, gather: Gather) -> TaskOutput:
        """Return the loss of a training batch; training ends at the first loss that is not finite.

        Args:
            batch: rows of one data set.
            gather: see `task_loss`.

        Raises:
            UserError: it is not finite, in this process or in another.
        """
        output = task_loss(self.encoder, batch, gather)
        # Waits for the device once a batch: a NaN that is found later has cost the run, and the name of its rows.
        finite = bool(output.loss.isfinite())
        if not self.trainer.strategy.reduce_boolean_decision(finite):
            places = _not_finite(output)

            def problem() -> str:
                return f"the loss of {rows_of(batch, places or None)} is {float(output.loss)}"

            # What was gathered from another process can be at fault: the rows to name are there.
            self.stop_unless(not places, problem)
            self.stop_unless(finite, problem)
        return output

    def stop_unless(self, finite: bool, problem: Callable[[], str]) -> None:
        """End training in all processes if a number is not finite in one of them.

        Args:
            finite: whether it is in this one.
            problem: says which number is not, and where it comes from.

        Raises:
            UserError: a number is not finite.
        """
        if not self.trainer.strategy.reduce_boolean_decision(finite):
            self.keep_best()
            with fail_together():
                if not finite:
                    step = self.trainer.global_step
                    raise UserError(f"{problem()} after {step} steps; look at these rows, or lower the learning rate")

    def keep_best(self) -> None:
        """Go back to the best state known; a module that keeps none stays as it is."""

    def log_training(self, output: TaskOutput, batch: TaskBatch) -> None:
        """Log the loss of a training batch, over all data sets and for its own."""
        self.log("train/loss", output.loss, prog_bar=True, batch_size=len(batch))
        self.log(f"train/{batch.task}/loss", output.loss, batch_size=len(batch))

    def _metrics_of(self, index: int) -> TaskMetrics:
        metrics = self.task_metrics[index]
        assert isinstance(metrics, TaskMetrics)
        return metrics


def rows_of(batch: TaskBatch, places: Sequence[int] | None = None) -> str:
    """Return a batch in words: its data set and, where they are known, the rows of the source.

    Args:
        batch: of one data set.
        places: in the batch, of the rows to name; None: of all.
    """
    if batch.rows is None:
        return f"'{batch.task}'"
    rows = batch.rows if places is None else [batch.rows[place] for place in places]
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return f"'{batch.task}', rows {', '.join(map(str, rows[:SHOWN]))}{more}"


def _not_finite(output: TaskOutput) -> list[int]:
    """Return the places in the batch of the rows with an embedding that is not finite."""
    finite = torch.stack([column.isfinite().all(1) for column in output.embeddings]).all(0)
    places: list[int] = (~finite).nonzero().flatten().tolist()
    return places
