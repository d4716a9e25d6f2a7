"""MTEB scores while training."""

from statistics import fmean
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.mteb_encoder import MtebEncoder
from callbacks.mteb_tasks import evaluate_tasks, load_tasks
from modules.errors import UserError

if TYPE_CHECKING:
    from mteb import AbsTask


class MtebCallback(Callback):
    """Scores ``pl_module.encoder`` at the end of training epochs.

    Logs ``mteb/<task>`` and ``mteb/average``, main scores x 100, the same on every process. Training goes on as if
    nothing had happened: random numbers and the train mode are restored.

    Args:
        tasks: names of tasks, see ``load_tasks``. Their data is read before training starts.
        every_n_epochs: epochs from one evaluation to the next; ``fast_dev_run`` evaluates its only epoch.
        data_root: folder with copies of hub data sets, see ``load_tasks``.
        batch_size: texts in one forward pass, on each process.
    """

    def __init__(
        self, tasks: list[str], every_n_epochs: int = 1, data_root: str | None = None, batch_size: int = 64
    ) -> None:
        if every_n_epochs < 1:
            raise UserError(f"mteb.every_n_epochs: {every_n_epochs} is not a positive number of epochs")
        self.tasks = tasks
        self.every_n_epochs = every_n_epochs
        self.data_root = data_root
        self.batch_size = batch_size
        self._loaded: list[AbsTask] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the tasks; raises ``UserError`` if one is unknown or has no data."""
        if stage == "fit" and self.tasks:
            self._loaded = load_tasks(self.tasks, self.data_root)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate and log. Every process enters, since the texts are shared out over them."""
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0 or bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        # An epoch that was broken off by a signal ends here too, and its user does not want to wait.
        whole = trainer.is_last_batch or trainer.global_step == trainer.max_steps
        if not due or not whole or not self._loaded:
            return
        encoder = MtebEncoder(pl_module.encoder, revision=f"step-{trainer.global_step}")  # type: ignore[arg-type]
        scores = evaluate_tasks(encoder, self._loaded, batch_size=self.batch_size)
        scores["average"] = fmean(scores.values())
        pl_module.log_dict({f"mteb/{task}": score for task, score in scores.items()}, sync_dist=True)
