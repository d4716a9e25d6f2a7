"""The verdict in words: the choice by the probe, and every way in which a model can stand to the others."""

import pytest

from callbacks.mteb.task_evaluation import MEAN
from lightning_app.report.significance import Difference, Significance
from lightning_app.report.verdict import Contender, Verdict, choose
from modules.bootstrap import Interval


def gain(observed: float, low: float | None = None, high: float | None = None) -> Significance:
    bounds = None if low is None or high is None else Interval(low, high)
    return Significance({}, {MEAN: Difference(observed, bounds)}, [])


BASE = Contender("base", "models/base", 1.0, single=True)
JOINT = Contender("joint", "stages/joint/model", single=True)
MERGED = Contender("merged", "run/model", 0.865)


def test_the_choice_is_the_lowest_probe_loss_and_of_equals_the_simpler() -> None:
    assert choose([BASE, JOINT, MERGED], otherwise=JOINT) is MERGED
    assert choose([BASE, Contender("worse", "x", 1.2)], otherwise=JOINT) is BASE
    assert choose([BASE, Contender("equal", "x", 1.0)], otherwise=JOINT) is BASE
    assert choose([JOINT, Contender("other", "x")], otherwise=JOINT) is JOINT


def test_every_other_row_is_better_worse_or_not_told_apart() -> None:
    gains = {
        "base": gain(2.47, 0.9, 4.0), "retrieval": gain(0.2, -1, 1.4), "joint": gain(-0.15, -1.9, 1.6),
        "average": gain(-1.0, -1.5, -0.5), "slerp": gain(0.5, 0.1, 0.9), "soup": gain(0.3),
    }  # fmt: skip
    verdict = Verdict(MERGED, [BASE, JOINT, MERGED], gains, ["base", "joint", "average"], tasks=2)
    assert verdict.choice() == (
        "Take merged: of base and merged it has the lowest loss on the probe-validation rows, 13.5 % below the base's."
    )
    assert verdict.comparison() == (
        "On the mean of the 2 tasks (differences with 95 % intervals) it is better than base (+2.47, +0.90 to +4.00) "
        "and slerp; it is worse than average (-1.00, -1.50 to -0.50); there is no difference that the tasks can see "
        "from joint (-0.15, -1.90 to +1.60) and retrieval; without an interval, it lies above soup; joint alone is as "
        "good."
    )


def test_single_models_that_are_better_or_as_good_are_named() -> None:
    singles = [BASE, JOINT, *(Contender(name, name, single=True) for name in ("a", "b"))]
    gains = {"base": gain(0.1, -1, 1), "joint": gain(-2, -3, -1), "a": gain(-3, -4, -2), "b": gain(0.2, -1, 1)}
    text = Verdict(MERGED, [*singles, MERGED], gains, ["base", "joint"], tasks=3).comparison()
    assert text.endswith("; joint and a alone are better; base and b alone are as good.")
    assert "alone" not in Verdict(BASE, [BASE, JOINT], {"joint": gain(-2, -3, -1)}, ["joint"], tasks=3).comparison()


def test_many_rows_are_counted() -> None:
    gains = {"base": gain(2, 1, 3)} | {f"row {i}": gain(1, 0.5, 1.5) for i in range(9)}
    contenders = [BASE, MERGED, *(Contender(f"row {i}", "x", 0.9) for i in range(9))]
    verdict = Verdict(MERGED, contenders, gains, ["base", "joint"], tasks=1)
    assert "Take merged: of 11 models it has" in verdict.choice()
    assert verdict.comparison().endswith(" it is better than base (+2.00, +1.00 to +3.00) and 9 other rows.")
    assert verdict.comparison().startswith("On the only task ")


@pytest.mark.parametrize(
    ("chosen", "contenders", "tasks", "said"),
    [
        (BASE, [BASE, MERGED], 2, "on the probe-validation rows. There are no scores of it and of another"),
        (JOINT, [JOINT], 2, "Take joint, which the recipe makes: there is no loss on probe-validation rows to choose"),
        (MERGED, [BASE, MERGED], 0, "It was scored on no task: this is said of the probe-validation rows alone"),
        (MERGED, [MERGED, JOINT], 0, "Take merged: no other model has a loss on the probe-validation rows."),
        (Contender("m", "x", 1.02), [MERGED, JOINT, BASE], 0, "2.0 % above the base's"),
    ],
)
def test_what_is_not_known_is_said(chosen: Contender, contenders: list[Contender], tasks: int, said: str) -> None:
    [text, _] = Verdict(chosen, contenders, {}, ["base"], tasks).section().text
    assert said in text


def test_the_model_is_found_and_loaded() -> None:
    section = Verdict(MERGED, [MERGED], {}, [], 0, "; run/model is another").section()
    assert section.text[1] == "It lies in run/model; run/model is another."
    assert section.code.endswith('\nmodel = SentenceTransformer("run/model")')
    own_code = Contender("x", "x", trust_remote_code=True)
    assert '("x", trust_remote_code=True)' in Verdict(own_code, [], {}, [], 0).section().code
