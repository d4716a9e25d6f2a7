"""A quasi-Newton search on the whole probe: with N + 1 unknowns, curvature is nearly free."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.search.search import Closure, NumberOptimizer, Search

SUFFICIENT = 1e-4
"""Armijo's constant: the fraction of the decrease promised by the slope that a step must give."""

MOST_TRIALS = 6

RESOLUTION = 1e-6
"""Relative change of the numbers or the objective that float32 cannot show: more passes would be wasted."""


class Bfgs(Search):
    """BFGS with a backtracking line search (Nocedal & Wright, *Numerical Optimization*, algorithm 6.1).

    L-BFGS keeps a few vectors because the inverse Hessian of many unknowns has no room. Here it is a matrix of
    (N + 1) squared numbers, and kept whole. Every evaluation is a pass over the whole probe; the value and gradient of
    an accepted point are not evaluated again.

    Args:
        first_step: length of the first trial step, in the units of the raw numbers.

    Example:
        >>> merge = MergeModule("experts/base", {"sts": "experts/sts", "faq": "experts/faq"}, search=Bfgs())
        >>> Trainer(max_epochs=40).fit(merge, datamodule=ProbeDataModule(tasks))  # a step per epoch
    """

    full_probe = True

    def __init__(self, first_step: float = 0.3) -> None:
        self.first_step = first_step

    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """Return a `BfgsOptimizer`."""
        return BfgsOptimizer(parameters, self.first_step)


class BfgsOptimizer(NumberOptimizer):
    """The optimizer of `Bfgs`.

    Args:
        parameters: the numbers.
        first_step: length of the first trial step.
    """

    def __init__(self, parameters: list[nn.Parameter], first_step: float) -> None:
        super().__init__(parameters)
        self.first_step = first_step

    def step(self, closure: Closure) -> Tensor:  # type: ignore[override]
        """Move to a better point along the quasi-Newton direction, or else along steepest descent.

        Where neither leads to a better point, or the slope promises no change that float32 can show, the search has
        ended: this step and all later steps stay at the point and evaluate nothing more.

        Args:
            closure: evaluates the objective and its gradient.

        Returns:
            The objective at the point, a float64 scalar.
        """
        memory = self.memory
        if not memory:
            memory["value"], memory["gradient"] = self._evaluate(closure)
        if "ended" not in memory and not self._descend(closure):
            memory["ended"] = memory["value"]
        return memory["value"]

    def _descend(self, closure: Closure) -> bool:
        """Take one step down; return False where there is none."""
        memory, x = self.memory, self.numbers()
        value, gradient = memory["value"], memory["gradient"]
        while True:
            steepest = "inverse" not in memory
            direction = self._first_direction(gradient) if steepest else -(memory["inverse"] @ gradient)
            small = direction.abs().max() < RESOLUTION * x.abs().max().clamp(min=1)
            if small or -(gradient @ direction) < RESOLUTION * value.abs():
                return False
            if self._search_along(direction, closure):
                return True
            if steepest:
                return False
            del memory["inverse"]  # the learned curvature misleads here

    def _search_along(self, direction: Tensor, closure: Closure) -> bool:
        """Move to the first point along a direction that is low enough (backtracking), or stay and return False."""
        memory, x = self.memory, self.numbers()
        value, gradient = memory["value"], memory["gradient"]
        slope, length = gradient @ direction, 1.0
        for _ in range(MOST_TRIALS):
            self.move_to(x + length * direction)
            found, there = self._evaluate(closure)
            if found <= value + SUFFICIENT * length * slope:
                memory["value"], memory["gradient"] = found, there
                self._learn_curvature(self.numbers() - x, there - gradient)
                return True
            # The minimum of the parabola through both values and the slope, kept within a tenth and a half.
            best = -slope * length / (2 * ((found - value) / length - slope))
            length *= float((best / length).nan_to_num(0.5).clamp(0.1, 0.5))
        self.move_to(x)
        return False

    def _evaluate(self, closure: Closure) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            value = closure().detach().cpu().double()
        return value, self.gradient()

    def _first_direction(self, gradient: Tensor) -> Tensor:
        return -gradient * (self.first_step / gradient.norm().clamp(min=1e-12))

    def _learn_curvature(self, moved: Tensor, change: Tensor) -> None:
        """Update the inverse Hessian, unless the curvature along the step is not positive."""
        curvature = moved @ change
        if curvature <= 1e-12 * moved.norm() * change.norm():
            return
        unit = torch.eye(len(moved), dtype=moved.dtype)
        inverse = self.memory.get("inverse", unit * curvature / (change @ change))
        left = unit - torch.outer(moved, change) / curvature
        self.memory["inverse"] = left @ inverse @ left.T + torch.outer(moved, moved) / curvature
