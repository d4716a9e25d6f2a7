"""The objective of a position against its formula, gradients too; base losses that belong to their rows."""

import pytest
import torch
from torch import Tensor

from modules import MergeMethod, Slerp, TaskArithmetic
from modules.losses.task_batch import LossConfig, TaskBatch
from modules.positioning.objective import Objective
from modules.positioning.position import Position

GRAMS = torch.tensor([[[2.0, 0.5], [0.5, 1.0]], [[1.0, 0.2], [0.2, 3.0]]], dtype=torch.float64)
BATCHES = [TaskBatch(task, LossConfig(), [], torch.zeros(1, 4)) for task in ("qa", "sts", "qa")]
BASE = {"qa": 0.5, "sts": 4.0}


def objective(method: MergeMethod, mu: float = 0.0, pull: float = 0.0) -> Objective:
    """Away from its start."""
    position = Position(method, GRAMS, [0, 1], labels=["first", "second"])
    made = Objective(position, mu, pull)
    made.base_losses = BASE
    with torch.no_grad():
        for number in position.parameters():
            number += torch.linspace(-0.3, 0.4, number.numel()).view_as(number)
    return made


def loss_of(made: Objective, batch: TaskBatch) -> Tensor:
    """Stands for a model's loss at the coefficients."""
    return ((made.position.coefficients() - (0.3 if batch.task == "qa" else 1.2)) ** 2).sum().float()


def obvious(made: Objective) -> Tensor:
    """The formula, written out."""
    position = made.position
    relative = [loss_of(made, batch) / BASE[batch.task] for batch in BATCHES]
    distances = [(c - s).abs().sum() for c, s in zip(position.coefficients(), made.start, strict=True)]
    value = sum(relative) / 3 + made.pull * sum(distances) / 2
    return value + made.mu * position.scale.mean() if position.method.has_scale else value


@pytest.mark.parametrize("method", [Slerp(), TaskArithmetic()])
@pytest.mark.parametrize(("mu", "pull"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.2), (0.3, 0.2)])
def test_value_and_gradient_over_the_probe_are_those_of_the_formula(
    method: MergeMethod, mu: float, pull: float
) -> None:
    made = objective(method, mu, pull)
    numbers = [number for number in made.position.parameters() if number.requires_grad]
    expected = obvious(made)
    gradients = torch.autograd.grad(expected, numbers)
    value = made.over_probe(BATCHES, lambda batch: loss_of(made, batch), lambda tensor: tensor)
    assert float(value) == pytest.approx(expected.item(), rel=1e-6) and not value.requires_grad
    for number, gradient in zip(numbers, gradients, strict=True):
        assert number.grad is not None and torch.allclose(number.grad, gradient, rtol=1e-5)


def test_losses_and_gradients_are_reduced_over_processes_and_the_regulariser_is_not() -> None:
    one, two = (objective(Slerp(), mu=0.3, pull=0.2) for _ in range(2))
    value = one.over_probe(BATCHES, lambda batch: loss_of(one, batch), lambda tensor: tensor)
    doubled = two.over_probe(BATCHES, lambda batch: loss_of(two, batch), lambda tensor: 2 * tensor)
    regulariser = one.regulariser().detach()
    assert float(doubled - regulariser) == pytest.approx(2 * float(value - regulariser))
    for once, twice in zip(one.position.parameters(), two.position.parameters(), strict=True):
        [of_regulariser] = torch.autograd.grad(one.regulariser(), [once])
        assert once.grad is not None and twice.grad is not None
        assert torch.allclose(twice.grad - of_regulariser, 2 * (once.grad - of_regulariser), rtol=1e-5)


def test_without_gradients_only_the_value_is_taken() -> None:
    made = objective(Slerp(), mu=0.3)
    with torch.no_grad():
        value = made.over_probe(BATCHES, lambda batch: loss_of(made, batch), lambda tensor: tensor)
    assert float(value) == pytest.approx(obvious(made).item(), rel=1e-6)
    assert all(number.grad is None for number in made.position.parameters())


def test_the_base_has_objective_one_whatever_the_weights() -> None:
    made = objective(Slerp(), mu=0.3)
    assert made.validated(BASE, {"qa": 0.2, "sts": 0.8}) == pytest.approx(1.0)
    assert made.validated({"qa": 0.25, "sts": 4.0}, {"qa": 0.2, "sts": 0.8}) == pytest.approx(0.9)


def test_a_checkpoint_carries_what_losses_and_coefficients_are_compared_with() -> None:
    one, other = objective(Slerp(), pull=0.2), objective(Slerp(), pull=0.2)
    other.base_losses = {}
    other.start_here()
    assert other.regulariser().item() == 0.0
    other.load_state_dict(one.state_dict())
    assert (other.base_losses, other.regulariser().item()) == (BASE, one.regulariser().item())
    assert other.is_measured_on({}) and not other.is_measured_on({"qa": ["rows"]})
