"""What happens around training: scores and traces."""

from callbacks.coefficient_trace import CoefficientTrace
from callbacks.mteb_callback import MtebCallback
from callbacks.mteb_encoder import MtebEncoder
from callbacks.mteb_tasks import evaluate_tasks, load_tasks

__all__ = ["CoefficientTrace", "MtebCallback", "MtebEncoder", "evaluate_tasks", "load_tasks"]
