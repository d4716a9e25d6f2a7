"""The objective by which a position is searched.

Li et al. 2024, arXiv 2410.15035, section 3.2:
``(a*, lambda*) = argmin mean over data sets t of L_t(theta_0 + lambda V(a)) / L_t(theta_0) + mu * lambda``.

Shapes: N experts, G groups of tensors with coefficients of their own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, nn

from modules.full_precision import without_autocast
from modules.losses.task_batch import TaskBatch
from modules.positioning.position import Position
from modules.positioning.relative_loss import refuse_undefined, validation_losses


class Objective:
    """Losses relative to the base's, plus ``mu`` times the scale, plus a pull of the coefficients to their start.

    Args:
        position: the numbers that it is a function of.
        mu: weight of the scale; of several scales, of their mean, which for tied scales is the same.
        pull: weight of the L1 distance of the coefficients from their start, mean over groups.

    Attributes:
        base_losses: data set to the mean loss of the base on its validation rows.
        start: ``[G, N]`` float64, the coefficients to which the pull goes.

    Example:
        >>> objective = Objective(position, mu=0.02)
        >>> objective.measure_base(base, trainer, datamodule.validation_identity)
        >>> objective.relative_loss("qa", loss) + objective.regulariser()
    """

    def __init__(self, position: Position, mu: float = 0.02, pull: float = 0.0) -> None:
        self.position = position
        self.mu, self.pull = mu, pull
        self.base_losses: dict[str, float] = {}
        self._measured_on: dict[str, Any] = {}
        self.start_here()

    def start_here(self) -> None:
        """Take the present coefficients as the start to which the pull goes."""
        self.start = self.position.coefficients().detach()

    def measure_base(self, base: nn.Module, trainer: Trainer, rows: Mapping[str, Any]) -> None:
        """Measure the losses of the model that other losses are relative to.

        Args:
            base: on the trainer's device.
            trainer: at work, with a data module that has ``task_losses``.
            rows: the identity of the data module's validation rows.

        Raises:
            UserError: a loss is zero or not finite.
        """
        losses = validation_losses(base, trainer)
        refuse_undefined(losses)
        self.base_losses, self._measured_on = losses, dict(rows)

    def is_measured_on(self, rows: Mapping[str, Any]) -> bool:
        """Return whether the base was measured on these validation rows."""
        return self._measured_on == rows

    def forget_base(self) -> None:
        """Let the base be measured again."""
        self._measured_on = {}

    def relative_loss(self, task: str, loss: Tensor) -> Tensor:
        """Return a loss of a data set divided by the base's loss on it."""
        return loss / self.base_losses[task]

    def relative_losses(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Return data set to its mean loss divided by the base's."""
        return {task: loss / self.base_losses[task] for task, loss in losses.items()}

    def validated(self, losses: Mapping[str, float], weights: Mapping[str, float]) -> float:
        """Return the weighted sum of the relative losses, without the regulariser; the base itself gives 1.

        Args:
            losses: data set to its mean loss.
            weights: data set to its weight; they add up to 1.
        """
        return sum(weights[task] * loss / self.base_losses[task] for task, loss in losses.items())

    def regulariser(self) -> Tensor:
        """Return ``mu`` times the mean scale plus the pull to the start, a float64 scalar on the CPU."""
        position, value = self.position, torch.zeros((), dtype=torch.float64)
        if position.method.has_scale:
            value = value + self.mu * position.scale.mean()
        if self.pull:
            value = value + self.pull * (position.coefficients() - self.start).abs().sum(1).mean()
        return value

    def over_probe(
        self, batches: Sequence[TaskBatch], loss_of: Callable[[TaskBatch], Tensor], reduce: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the objective over the whole probe; its gradient goes to ``.grad`` where gradients are enabled.

        The gradient does not go through ``backward``, so DDP has nothing to reduce: N + 1 numbers are, here.

        Args:
            batches: the probe of this process.
            loss_of: maps a batch to its loss.
            reduce: maps a tensor to its mean over the processes.

        Returns:
            A float64 scalar on the CPU, the same in every process.
        """
        numbers = [p for p in self.position.parameters() if p.requires_grad]
        value, gradients = self._mean_relative_loss(batches, loss_of, numbers)
        regulariser = self.regulariser()
        if torch.is_grad_enabled():
            gradients = [reduce(gradient) for gradient in gradients]
            if regulariser.requires_grad:
                pulls = torch.autograd.grad(regulariser, numbers, allow_unused=True, materialize_grads=True)
                gradients = [gradient + pull for gradient, pull in zip(gradients, pulls, strict=True)]
            for number, gradient in zip(numbers, gradients, strict=True):
                number.grad = gradient
        return reduce(value).cpu() + regulariser.detach()

    def _mean_relative_loss(
        self, batches: Sequence[TaskBatch], loss_of: Callable[[TaskBatch], Tensor], numbers: Sequence[nn.Parameter]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the mean over the batches of this process, and its gradients where they are enabled, else zeros."""
        value, gradients = torch.zeros(()), [torch.zeros_like(number) for number in numbers]
        for batch in batches:
            loss = self.relative_loss(batch.task, loss_of(batch))
            value = value.to(loss) + loss.detach()
            if torch.is_grad_enabled():
                with without_autocast(loss):  # where `backward` would be; this is within the training step
                    parts = torch.autograd.grad(loss, numbers)
                for total, part in zip(gradients, parts, strict=True):
                    total += part
        return value / len(batches), [total / len(batches) for total in gradients]

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps."""
        return {"base_losses": self.base_losses, "measured_on": self._measured_on, "start": self.start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.base_losses, self._measured_on, self.start = state["base_losses"], state["measured_on"], state["start"]
