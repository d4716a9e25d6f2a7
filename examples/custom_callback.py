"""Trains a model with a callback of one's own, which answers a question after every validation.

python examples/custom_callback.py BASE pairs.jsonl
"""

import sys

from lightning import Callback, LightningModule, Trainer

from datamodules import DataSource, TaskDataModule, load_task
from modules import ContrastiveModule

base, file = sys.argv[1:]
questions, answers = load_task(DataSource(file)).texts[:2]


class Answer(Callback):
    """Prints the answer, of the first twenty, that the encoder finds nearest to the first question."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Embed the question and the answers, and print the nearest of these."""
        question, *others = pl_module.encoder.encode([questions[0], *answers[:20]])
        nearest = max(range(len(others)), key=lambda i: question @ others[i])
        print(f"step {trainer.global_step}: {answers[nearest]}")


trainer = Trainer(max_steps=40, val_check_interval=20, check_val_every_n_epoch=None, callbacks=[Answer()])
trainer.fit(ContrastiveModule(base), datamodule=TaskDataModule([DataSource(file)], validation_size=64))
