"""Callbacks around training: scores, traces and costs."""

from callbacks.batch_losses import BatchLosses
from callbacks.coefficient_trace import CoefficientTrace
from callbacks.cost_meter import CostMeter
from callbacks.gradient_conflict import GradientConflict
from callbacks.keep_best import KeepBest
from callbacks.keep_steps import KeepSteps
from callbacks.mteb.mteb_encoder import MtebEncoder
from callbacks.mteb.task_evaluation import evaluate_tasks
from callbacks.mteb.task_loading import load_tasks
from callbacks.mteb.task_selection import TaskSelection
from callbacks.mteb_callback import MtebCallback
from callbacks.probe_trace import ProbeTrace
from callbacks.resumable_run import ResumableRun
from callbacks.stage_progress_bar import StageProgressBar

__all__ = [
    "BatchLosses",
    "CoefficientTrace",
    "CostMeter",
    "GradientConflict",
    "KeepBest",
    "KeepSteps",
    "MtebCallback",
    "MtebEncoder",
    "ProbeTrace",
    "ResumableRun",
    "StageProgressBar",
    "TaskSelection",
    "evaluate_tasks",
    "load_tasks",
]
