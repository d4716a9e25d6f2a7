"""What happens around training: scores, traces and costs."""

from callbacks.coefficient_trace import CoefficientTrace
from callbacks.cost_meter import CostMeter
from callbacks.gradient_conflict import GradientConflict
from callbacks.keep_best import KeepBest
from callbacks.keep_steps import KeepSteps
from callbacks.mteb_callback import MtebCallback
from callbacks.mteb_encoder import MtebEncoder
from callbacks.mteb_tasks import evaluate_tasks, load_tasks
from callbacks.resumable_run import ResumableRun
from callbacks.stage_progress_bar import StageProgressBar
from callbacks.task_selection import TaskSelection

__all__ = [
    "CoefficientTrace",
    "CostMeter",
    "GradientConflict",
    "KeepBest",
    "KeepSteps",
    "MtebCallback",
    "MtebEncoder",
    "ResumableRun",
    "StageProgressBar",
    "TaskSelection",
    "evaluate_tasks",
    "load_tasks",
]
