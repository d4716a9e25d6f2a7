"""Tensor maths, nn.Modules and LightningModules of the merge; needs neither datasets, mteb nor jsonargparse."""

from modules.contrastive_module import ContrastiveModule
from modules.encoder import TextEncoder
from modules.errors import UserError
from modules.merge_module import Expert, MergeModule
from modules.merging import Average, MergeMethod, Slerp, TaskArithmetic
from modules.task_batch import LossConfig, TaskBatch

__all__ = [
    "Average",
    "ContrastiveModule",
    "Expert",
    "LossConfig",
    "MergeMethod",
    "MergeModule",
    "Slerp",
    "TaskArithmetic",
    "TaskBatch",
    "TextEncoder",
    "UserError",
]
