"""The base classes of searches for a position and of their optimizers."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Closure = Callable[[], Tensor]
"""Evaluates the objective at the present numbers; where gradients are enabled, it leaves them in ``.grad``."""


class Search(ABC):
    """Makes the optimizer that moves the N + 1 numbers of a position.

    Example:
        Gradient descent, in ``modules/search/descent.py``; one line of ``modules/search/__init__.py`` and one of
        ``modules/__init__.pyi`` export it, and ``search: {class_path: modules.Descent}`` searches with it::

            class Descent(Search):
                def optimizer(self, parameters):
                    return torch.optim.SGD(parameters, lr=0.1)
    """

    full_probe: bool = False
    """True where a step evaluates the objective on the whole probe, by a closure, instead of on the next batch."""

    @abstractmethod
    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """Return the optimizer of a position's numbers; with `full_probe`, each step is given a `Closure`."""


class NumberOptimizer(Optimizer):
    """An optimizer that sees all numbers as one vector ``x``: ``[numbers]``, float64, on the CPU.

    Args:
        parameters: the numbers.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self.parameters: list[nn.Parameter] = self.param_groups[0]["params"]

    @property
    def memory(self) -> dict[str, Tensor]:
        """The tensors kept from step to step, saved and loaded like the state of any optimizer."""
        memory: dict[str, Tensor] = self.state[self.parameters[0]]
        return memory

    def numbers(self) -> Tensor:
        """Return ``x``."""
        return torch.cat([p.detach().cpu().double().flatten() for p in self.parameters])

    def gradient(self) -> Tensor:
        """Return the gradient at ``x`` that the closure left in ``.grad``."""
        return torch.cat([p.grad.cpu().double().flatten() for p in self.parameters if p.grad is not None])

    @torch.no_grad()
    def move_to(self, x: Tensor) -> None:
        """Set the numbers to ``x``."""
        for parameter, part in zip(self.parameters, x.split([p.numel() for p in self.parameters]), strict=True):
            parameter.copy_(part.view_as(parameter))

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Load a state, without the rounding to the parameters' float32 that optimizers do."""
        super().load_state_dict(state_dict)
        saved: dict[int, dict[str, Tensor]] = state_dict["state"]  # type: ignore[assignment]
        self.memory.update({key: value.clone() for key, value in saved.get(0, {}).items()})
