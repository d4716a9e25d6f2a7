"""A quasi-Newton search on the whole probe: with N + 1 unknowns, curvature is nearly free."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.search.base import Closure, NumberOptimizer, Search

SUFFICIENT = 1e-4
"""Armijo's constant: the part of the decrease promised by the slope that a step must give."""

MOST_TRIALS = 6

RESOLUTION = 1e-6
"""Relative change that float32 cannot show, of the numbers or of the objective: more passes would be wasted."""


class Bfgs(Search):
    """BFGS with a backtracking line search (Nocedal & Wright, *Numerical Optimization*, algorithm 6.1).

    L-BFGS keeps a few vectors because the inverse Hessian of many unknowns has no room. Here it is a matrix of
    (N + 1) squared numbers, and kept whole. Every evaluation is a pass over the whole probe; the value and gradient of
    an accepted point are not evaluated again.

    Args:
        first_step: length of the first trial step, in the units of the raw numbers.
    """

    full_probe = True

    def __init__(self, first_step: float = 0.3) -> None:
        self.first_step = first_step

    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """A `BfgsOptimizer`."""
        return BfgsOptimizer(parameters, self.first_step)


class BfgsOptimizer(NumberOptimizer):
    """See `Bfgs`.

    Args:
        parameters: the numbers.
        first_step: length of the first trial step.
    """

    def __init__(self, parameters: list[nn.Parameter], first_step: float) -> None:
        super().__init__(parameters)
        self.first_step = first_step

    def step(self, closure: Closure) -> Tensor:  # type: ignore[override]
        """Move to a better point along the quasi-Newton direction; stay where there is none.

        After a direction that led nowhere the next step is one of steepest descent; after two, the search has ended.
        """
        memory = self.memory
        if not memory:
            memory["value"], memory["gradient"] = self._evaluate(closure)
        x, value, gradient = self.numbers(), memory["value"], memory["gradient"]
        direction = -(memory["inverse"] @ gradient) if "inverse" in memory else self._first_direction(gradient)
        slope = gradient @ direction
        small_step = direction.abs().max() < RESOLUTION * x.abs().max().clamp(min=1)
        if small_step or -slope < RESOLUTION * value.abs() or "stuck" in memory:
            return value
        length = 1.0
        for _ in range(MOST_TRIALS):
            self.move_to(x + length * direction)
            found, there = self._evaluate(closure)
            if found <= value + SUFFICIENT * length * slope:
                memory["value"], memory["gradient"] = found, there
                self._learn_curvature(self.numbers() - x, there - gradient)
                return found
            # The minimum of the parabola through both values and the slope, kept within a tenth and a half.
            best = -slope * length / (2 * ((found - value) / length - slope))
            length *= float((best / length).nan_to_num(0.5).clamp(0.1, 0.5))
        self.move_to(x)
        if memory.pop("inverse", None) is None:  # not even the steepest descent leads down
            memory["stuck"] = value
        return value

    def _evaluate(self, closure: Closure) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            value = closure().detach().cpu().double()
        return value, self.gradient()

    def _first_direction(self, gradient: Tensor) -> Tensor:
        return -gradient * (self.first_step / gradient.norm().clamp(min=1e-12))

    def _learn_curvature(self, moved: Tensor, change: Tensor) -> None:
        """The BFGS update of the inverse Hessian, left out where the curvature along the step is not positive."""
        curvature = moved @ change
        if curvature <= 1e-12 * moved.norm() * change.norm():
            return
        unit = torch.eye(len(moved), dtype=moved.dtype)
        inverse = self.memory.get("inverse", unit * curvature / (change @ change))
        left = unit - torch.outer(moved, change) / curvature
        self.memory["inverse"] = left @ inverse @ left.T + torch.outer(moved, moved) / curvature
