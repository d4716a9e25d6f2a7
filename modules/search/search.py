"""What a search of the position is."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Closure = Callable[[], Tensor]
"""Evaluates the objective at the present numbers; where gradients are enabled, it leaves them in ``.grad``."""


class Search(ABC):
    """Makes the optimizer that moves the N + 1 numbers of a position."""

    full_probe: bool = False
    """Whether a step evaluates the objective on the whole probe, by a closure, instead of on the next batch."""

    @abstractmethod
    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """The optimizer of these numbers; one for `full_probe` needs a `Closure` in every step."""


class NumberOptimizer(Optimizer):
    """An optimizer that sees all numbers as one vector ``x``: ``[numbers]``, float64, on the CPU.

    Args:
        parameters: what the numbers are.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self.parameters: list[nn.Parameter] = self.param_groups[0]["params"]

    @property
    def memory(self) -> dict[str, Tensor]:
        """What is kept from step to step, saved and loaded like the state of any optimizer."""
        memory: dict[str, Tensor] = self.state[self.parameters[0]]
        return memory

    def numbers(self) -> Tensor:
        """``x``."""
        return torch.cat([p.detach().cpu().double().flatten() for p in self.parameters])

    def gradient(self) -> Tensor:
        """The gradient at ``x`` that the closure left."""
        return torch.cat([p.grad.cpu().double().flatten() for p in self.parameters if p.grad is not None])

    @torch.no_grad()
    def move_to(self, x: Tensor) -> None:
        """Set the numbers."""
        for parameter, part in zip(self.parameters, x.split([p.numel() for p in self.parameters]), strict=True):
            parameter.copy_(part.view_as(parameter))

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Load without the rounding to the parameters' float32 that optimizers do."""
        super().load_state_dict(state_dict)
        saved: dict[int, dict[str, Tensor]] = state_dict["state"]  # type: ignore[assignment]
        self.memory.update({key: value.clone() for key, value in saved.get(0, {}).items()})
