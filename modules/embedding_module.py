"""The LightningModule of experts, joint models and positions: an encoder that is validated per data set."""

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
"""Maximum number of rows that a message names."""


class EmbeddingModule(LightningModule):
    """A LightningModule around an encoder, validated per data set.

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
        """Data set to the name of its loss, as the data module says."""
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
        """Side to the prefix that the encoder adds; data modules put it before texts without a prefix of their own."""
        return prompts_by_side(self.encoder.prompts, self.encoder.default_prompt_name)

    def on_fit_start(self) -> None:
        """Print the prompts that each data set is trained with, and name them in the encoder."""
        data: dict[str, dict[Side, str | None]] = self._ask_data("side_prompts")
        for name, prompts in data.items():
            say_once(f"  {name}: {describe_prompts(prompts)}")
        self.take_prompts(data)

    def take_prompts(self, data: Mapping[str, Mapping[Side, str | None]]) -> None:
        """Name the training prompts in the encoder, and so in the model that is saved.

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
        """Add the encoder's prompts to the checkpoint."""
        checkpoint["prompts"] = {"prompts": self.encoder.prompts, "default_name": self.encoder.default_prompt_name}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the encoder's prompts, where the checkpoint has them."""
        if "prompts" in checkpoint:
            self.set_prompts(**checkpoint["prompts"])

    def on_validation_start(self) -> None:
        """Make the metrics of each data set.

        They are made outside inference mode, so that a later validation can change their tensors.
        """
        with torch.inference_mode(False):
            metrics = [TaskMetrics(loss) for loss in self.task_losses.values()]
            self.task_metrics = nn.ModuleList(metrics).to(self.device)

    def validation_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Add a batch to the metrics of its data set, and return its loss; negatives come from the batch only."""
        output = task_loss(self.encoder, batch, local)
        self._metrics_of(dataloader_idx).update(output, batch)
        return output.loss

    def on_validation_epoch_end(self) -> None:
        """Log ``val/<data set>/<metric>`` per data set, and ``val/loss``; see `validation_objective`."""
        losses = []
        for i, task in enumerate(self.task_losses):
            values = self._metrics_of(i).compute()
            self.log_dict({f"val/{task}/{name}": value for name, value in values.items()}, sync_dist=True)
            losses.append(values["loss"])
        self.task_metrics = nn.ModuleList()
        self.log("val/loss", self.validation_objective(torch.stack(losses)), prog_bar=True, sync_dist=True)

    def validation_objective(self, losses: Tensor) -> Tensor:
        """Return ``val/loss``: the mean over the data sets.

        Args:
            losses: ``[data sets]``, the mean loss of each.

        Returns:
            A scalar on the device of `losses`.
        """
        return losses.mean()

    def training_loss(self, batch: TaskBatch, gather: Gather) -> TaskOutput:
        """Return the loss and the embeddings of a training batch; end training at a loss that is not finite.

        Args:
            batch: rows of one data set.
            gather: see `task_loss`.

        Raises:
            UserError: the loss is not finite, in this process or in another.
        """
        output = task_loss(self.encoder, batch, gather)
        # Waits for the device once per batch: a NaN that is found later has cost the run, and the name of its rows.
        finite = bool(output.loss.isfinite())
        if not self.trainer.strategy.reduce_boolean_decision(finite):
            places = _not_finite(output)

            def problem() -> str:
                return f"the loss of {rows_of(batch, places or None)} is {float(output.loss)}"

            # Rows gathered from another process can be at fault: that process names them.
            self.stop_unless(not places, problem)
            self.stop_unless(finite, problem)
        return output

    def stop_unless(self, finite: bool, problem: Callable[[], str]) -> None:
        """End training in all processes if a number is not finite in one of them.

        Args:
            finite: whether the number is finite in this process.
            problem: returns the beginning of the message: the number, and where it comes from.

        Raises:
            UserError: the number is not finite in some process.
        """
        if not self.trainer.strategy.reduce_boolean_decision(finite):
            self.keep_best()
            with fail_together():
                if not finite:
                    step = self.trainer.global_step
                    raise UserError(f"{problem()} after {step} steps; look at these rows, or lower the learning rate")

    def keep_best(self) -> None:
        """Return to the best state seen; a module that keeps no state stays as it is."""

    def log_training(self, output: TaskOutput, batch: TaskBatch) -> None:
        """Log the loss of a training batch as ``train/loss`` and ``train/<data set>/loss``."""
        self.log("train/loss", output.loss, prog_bar=True, batch_size=len(batch))
        self.log(f"train/{batch.task}/loss", output.loss, batch_size=len(batch))

    def _metrics_of(self, index: int) -> TaskMetrics:
        metrics = self.task_metrics[index]
        assert isinstance(metrics, TaskMetrics)
        return metrics


def rows_of(batch: TaskBatch, places: Sequence[int] | None = None) -> str:
    """Return a batch in words: its data set and, where they are known, the rows of the source.

    Args:
        batch: rows of one data set.
        places: places in the batch of the rows to name; None: all rows.
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
