"""Merge methods: one file, one class and one line here each."""

from modules.merging.average import Average
from modules.merging.breadcrumbs import Breadcrumbs
from modules.merging.dare import Dare
from modules.merging.della import Della
from modules.merging.fisher import Fisher
from modules.merging.karcher import Karcher
from modules.merging.lines import Lines
from modules.merging.merge_method import MergeMethod
from modules.merging.model_stock import ModelStock
from modules.merging.multi_slerp import MultiSlerp
from modules.merging.nu_slerp import NuSlerp
from modules.merging.reg_mean import RegMean
from modules.merging.sce import Sce
from modules.merging.slerp import Slerp
from modules.merging.spherical_mean import SphericalMean
from modules.merging.task_arithmetic import TaskArithmetic
from modules.merging.ties import Ties

__all__ = [
    "Average",
    "Breadcrumbs",
    "Dare",
    "Della",
    "Fisher",
    "Karcher",
    "Lines",
    "MergeMethod",
    "ModelStock",
    "MultiSlerp",
    "NuSlerp",
    "RegMean",
    "Sce",
    "Slerp",
    "SphericalMean",
    "TaskArithmetic",
    "Ties",
]
