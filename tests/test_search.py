"""The three searches find the analytic optimum of a quadratic loss over a position."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from modules import Adam, Bfgs, CmaEs, Search, Slerp, TaskArithmetic
from modules.positioning.position import Position, inverse_softplus

SEARCHES: dict[str, tuple[Search, int]] = {"adam": (Adam(0.02), 1500), "bfgs": (Bfgs(), 40), "cma-es": (CmaEs(), 120)}


def vectors() -> Tensor:
    return torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor(
        [[1.0], [2]]
    )


def quadratic(position: Position, target: Tensor) -> Callable[[], Tensor]:
    """A loss whose optimum is where the merged vector comes nearest to `target`; leaves gradients as a closure does."""

    def closure() -> Tensor:
        position.zero_grad()
        loss = (position.coefficients()[0] @ vectors() - target).square().sum()
        if torch.is_grad_enabled():
            loss.backward()
        return loss

    return closure


def optimizer_of(search: Search, position: Position) -> Optimizer:
    return search.optimizer([p for p in position.parameters() if p.requires_grad])


@pytest.mark.parametrize("name", SEARCHES)
def test_the_analytic_optimum_of_a_and_lambda_is_found(name: str) -> None:
    search, steps = SEARCHES[name]
    v = vectors()
    gram = v @ v.T
    position = Position(Slerp(), gram)
    off = torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target = 0.5 * v[0] + 0.9 * v[1] + off - torch.linalg.lstsq(v.T, off[:, None]).solution[:, 0] @ v
    optimizer = optimizer_of(search, position)
    closure = quadratic(position, target)
    for _ in range(steps):
        optimizer.step(closure)
    assert position.coefficients()[0].tolist() == pytest.approx([0.5, 0.9], abs=2e-3)
    # the same optimum in the units of a and lambda: SLERP with s = a_2 / (a_1 + a_2) on an arc of angle alpha
    alpha = float((gram[0, 1] / (gram[0, 0] * gram[1, 1]).sqrt()).acos())
    s = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    s = float(s[((s * alpha).sin() * 0.5 - ((1 - s) * alpha).sin() * 0.9).abs().argmin()])
    a = position.a.detach()[0] / position.a[0].sum()
    assert float(a[1]) == pytest.approx(s, abs=2e-3)
    scale = 0.5 * torch.tensor(alpha).sin() / torch.tensor((1 - s) * alpha).sin()
    assert float(position.scale.detach()) == pytest.approx(float(scale), abs=5e-3)


def test_bfgs_needs_few_passes() -> None:
    position = Position(TaskArithmetic(), torch.eye(2, dtype=torch.float64), signed=True)
    closure, passes = quadratic(position, 0.3 * vectors()[0] - 0.4 * vectors()[1]), 0

    def counted() -> Tensor:
        nonlocal passes
        passes += 1
        return closure()

    optimizer = optimizer_of(Bfgs(), position)
    for _ in range(8):
        optimizer.step(counted)
    assert position.coefficients()[0].tolist() == pytest.approx([0.3, -0.4], abs=1e-3)
    assert passes < 16


def test_bfgs_stays_where_nothing_is_better() -> None:
    position = Position(TaskArithmetic(), torch.eye(2, dtype=torch.float64))
    with torch.no_grad():
        position.raw_a.copy_(inverse_softplus(torch.tensor([[0.3, 0.4]])))
    before = position.raw_a.clone()
    closure = quadratic(position, 0.3 * vectors()[0] + 0.4 * vectors()[1])
    optimizer = optimizer_of(Bfgs(), position)
    for _ in range(3):
        optimizer.step(closure)
    assert torch.allclose(position.raw_a, before, atol=1e-4)


@pytest.mark.parametrize("search", [Bfgs(), CmaEs(seed=3)])
def test_a_search_goes_on_from_its_state(search: Search) -> None:
    def run(stop: int | None) -> Tensor:
        position = Position(Slerp(), vectors() @ vectors().T)
        closure = quadratic(position, vectors().sum(0))
        optimizer = optimizer_of(search, position)
        for step in range(7):
            if step == stop:
                state = optimizer.state_dict()
                optimizer = optimizer_of(search, position)
                optimizer.load_state_dict(state)
            optimizer.step(closure)
        return torch.cat([position.raw_a.detach().flatten(), position.raw_scale.detach()])

    assert torch.equal(run(stop=None), run(stop=3))


def test_bfgs_tries_steepest_descent_in_the_step_in_which_its_curvature_misleads() -> None:
    """A search that stays for one step would pass for settled."""
    x = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = Bfgs().optimizer([x])

    def closure() -> Tensor:
        x.grad = None
        loss = x.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    memory = optimizer.memory  # type: ignore[attr-defined]
    memory["inverse"] = torch.diag(torch.tensor([1.0, -1e-3], dtype=torch.float64)) * 1e6  # leads far away, and up
    before = float(memory["value"])
    optimizer.step(closure)
    assert float(memory["value"]) < before
    assert float(x.detach().square().sum()) < before


def test_bfgs_that_has_ended_evaluates_nothing() -> None:
    x = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer, evaluated = Bfgs().optimizer([x]), []

    def closure() -> Tensor:
        evaluated.append(1)
        x.grad = None
        loss = x.square().sum() + 1
        loss.backward()
        return loss

    for _ in range(20):
        optimizer.step(closure)
    count = len(evaluated)
    optimizer.step(closure)
    assert len(evaluated) == count
    assert float(x.detach()) == pytest.approx(0.0, abs=1e-3)
