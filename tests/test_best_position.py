"""Which position of a search is kept, and what is known of its way."""

import math

import pytest
import torch

from modules import Slerp
from modules.positioning.best_position import BestPosition
from modules.positioning.position import Position

PASSES = {"forward": 10, "backward": 10}


def best_of(settled: float = 1e-3) -> BestPosition:
    return BestPosition(Position(Slerp(), torch.eye(2, dtype=torch.float64), [0, 1]), settled)


def move_to(best: BestPosition, scale: float) -> None:
    best.position.stand_at(torch.tensor([1.0, 1.0]), scale)


def scale_of(best: BestPosition) -> float:
    return float(best.position.scale)


def test_the_best_position_is_restored() -> None:
    best = best_of()
    best.begin(1.0)
    for scale, objective in ((1.5, 0.8), (2.0, 0.7), (2.5, 0.9)):
        move_to(best, scale)
        best.see(objective, PASSES)
    best.restore()
    assert best.objective == 0.7 and scale_of(best) == pytest.approx(2.0)


def test_the_start_is_restored_where_nothing_beats_it() -> None:
    best = best_of()
    best.begin(1.0)
    for objective in (1.1, math.nan, 1.0):
        move_to(best, 2.0)
        best.see(objective, PASSES)
    best.restore()
    assert best.objective == 1.0 and scale_of(best) == pytest.approx(1.0)


def test_without_a_start_a_position_stays_where_it_is() -> None:
    best = best_of()
    move_to(best, 2.0)
    best.restore()
    assert scale_of(best) == pytest.approx(2.0)


def test_history_tells_how_far_coefficients_moved_and_when_they_settled() -> None:
    best = best_of(settled=0.1)
    best.begin(1.0)
    start = best.position.coefficients().detach()
    move_to(best, 2.0)
    best.see(0.9, PASSES)
    moved = float((best.position.coefficients().detach() - start).abs().max())
    assert best.history == [{"forward": 10, "backward": 10, "objective": 0.9, "moved": pytest.approx(moved)}]
    assert not best.ending.settled
    best.see(0.9, PASSES)
    assert best.history[1]["moved"] == 0.0
    assert (best.ending.settled, best.ending.best) == (True, 1)


def test_another_search_knows_nothing_of_the_one_before() -> None:
    best = best_of()
    best.begin(0.1)
    best.see(0.05, PASSES)
    move_to(best, 2.0)
    best.forget()
    best.restore()
    assert scale_of(best) == pytest.approx(2.0)
    best.begin(1.0)
    best.see(0.9, PASSES)
    assert (best.objective, best.ending.validations, best.history[0]["moved"]) == (0.9, 1, 0.0)


def test_a_search_goes_on_from_a_checkpoint() -> None:
    best, resumed = best_of(), best_of()
    best.begin(1.0)
    move_to(best, 2.0)
    best.see(0.7, PASSES)
    resumed.load_state_dict(best.state_dict())
    for each in (best, resumed):
        move_to(each, 3.0)
        each.see(0.8, PASSES)
        each.restore()
    assert (resumed.objective, resumed.history, resumed.ending) == (best.objective, best.history, best.ending)
    assert scale_of(resumed) == scale_of(best) == pytest.approx(2.0)
