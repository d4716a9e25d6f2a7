"""Merge methods: one file, one class and one line here each."""

from modules.merging.average import Average
from modules.merging.dare import Dare
from modules.merging.fisher import Fisher
from modules.merging.merge_method import MergeMethod
from modules.merging.multi_slerp import MultiSlerp
from modules.merging.reg_mean import RegMean
from modules.merging.slerp import Slerp
from modules.merging.spherical_mean import SphericalMean
from modules.merging.task_arithmetic import TaskArithmetic
from modules.merging.ties import Ties

__all__ = [
    "Average",
    "Dare",
    "Fisher",
    "MergeMethod",
    "MultiSlerp",
    "RegMean",
    "Slerp",
    "SphericalMean",
    "TaskArithmetic",
    "Ties",
]
