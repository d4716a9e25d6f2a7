"""Losses: one file, one class and one export here each; beside them the batch they need and the metrics."""

from modules.losses.cosent import CoSent
from modules.losses.info_nce import InfoNce
from modules.losses.loss import FITTING, LOSSES, Loss, losses_for, make_loss, register
from modules.losses.supervised_contrastive import SupervisedContrastive

__all__ = [
    "FITTING",
    "LOSSES",
    "CoSent",
    "InfoNce",
    "Loss",
    "SupervisedContrastive",
    "losses_for",
    "make_loss",
    "register",
]
