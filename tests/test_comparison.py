"""A comparison of two models, and the gain of a merge, in words."""

from lightning_app.report.comparison import comparison_text
from lightning_app.report.gain import Gain
from lightning_app.report.significance import Difference, Significance
from modules.bootstrap import Interval


def found(tasks: dict[str, Difference], mean: Difference, types: dict[str, Difference]) -> Significance:
    return Significance(tasks, {"Mean (Task)": mean, "Mean (TaskType)": mean, **types}, [])


BETTER = Difference(2.0, Interval(1.0, 3.0))
WORSE = Difference(-1.5, Interval(-2.0, -1.0))
OPEN = Difference(0.25, Interval(-0.5, 1.0))
UNKNOWN = Difference(0.5, None)


def test_the_better_model_is_named_with_what_it_is_better_on() -> None:
    tasks = {"STS12": BETTER, "SciFact": WORSE, "Banking77": OPEN, "TwentyNewsgroups": UNKNOWN}
    types = {"STS": BETTER, "Retrieval": WORSE, "Classification": OPEN, "Clustering": UNKNOWN}
    mean = Difference(0.3125, Interval(0.1, 0.5))
    assert comparison_text("A", "B", found(tasks, mean, types)) == (
        "B is better than A: +0.31 in the mean of 4 tasks (95 % interval +0.10 to +0.50). By type: B is clearly better "
        "on STS (+2.00), clearly worse on Retrieval (-1.50), undecided on Classification (+0.25), Clustering (+0.50)."
    )


def test_the_first_model_can_be_the_better_one() -> None:
    mean = Difference(-1.0, Interval(-2.0, -0.5))
    text = comparison_text("A", "B", found({"STS12": WORSE, "STS13": OPEN}, mean, {"STS": mean}))
    assert text == (
        "A is better than B: +1.00 in the mean of 2 tasks (95 % interval +0.50 to +2.00). By task: A is clearly better "
        "on STS12 (+1.50), undecided on STS13 (-0.25)."
    )


def test_chance_is_called_chance_and_what_is_not_known_is_not_claimed() -> None:
    one = found({"STS12": OPEN}, OPEN, {"STS": OPEN})
    assert comparison_text("A", "B", one) == (
        "B and A are level: +0.25 for B on STS12 is within chance (95 % interval -0.50 to +1.00)."
    )
    unknown = found({"TwentyNewsgroups": UNKNOWN}, UNKNOWN, {"Clustering": UNKNOWN})
    assert comparison_text("A", "B", unknown) == (
        "B scores higher than A, +0.50 on TwentyNewsgroups; without scores of examples there is no interval."
    )
    same = Difference(0.0, Interval(0.0, 0.0))
    assert comparison_text("A", "B", found({"STS12": same}, same, {"STS": same})).startswith("B and A are level: +0.00")


def test_a_gain_is_what_is_shown_and_the_simpler_merge_is_named() -> None:
    level = str(Gain("far", 0.8, 0.80000001, None))
    assert level.startswith("far alone is as good on held-out rows as the merge") and " a gain of +0.0000 (" in level
    assert str(Gain("far", 0.9, 0.8, None, 0.75)).endswith(" The plain average, which is simpler, has 0.7500.")
    assert str(Gain("far", 0.9, 0.8, None, 0.85)).endswith("a gain of +0.1000 (too few held-out rows for an interval).")
