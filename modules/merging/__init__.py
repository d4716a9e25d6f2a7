"""Merge methods: one file, one class and one line here each."""

from modules.merging.average import Average
from modules.merging.base import MergeMethod
from modules.merging.slerp import Slerp
from modules.merging.task_arithmetic import TaskArithmetic

__all__ = ["Average", "MergeMethod", "Slerp", "TaskArithmetic"]
