"""How the end of a search is told from one that was broken off."""

import pytest

from modules.positioning.ending import ending_of


def history(*points: tuple[float, float]) -> list[dict[str, float]]:
    return [{"objective": objective, "moved": moved} for objective, moved in points]


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([], "ended without a validation: the start is kept"),
        (
            [(0.9, 0.2), (0.85, 0.03)],
            "stopped at its budget after 2 validations, still moving by 0.0300 per validation, objective falling by "
            "0.0500",
        ),
        ([(0.9, 0.2), (0.85, 0.0)], "settled after 2 validations"),
        ([(0.8, 0.2), (0.85, 0.0)], "settled after 2 validations; kept is validation 1"),
        (
            [(1.1, 0.2)],
            "stopped at its budget after 1 validation, still moving by 0.2000 per validation, objective rising by "
            "0.1000; kept is the start, which none was better than",
        ),
    ],
)
def test_the_end_in_words(points: list[tuple[float, float]], words: str) -> None:
    assert str(ending_of(history(*points), start=1.0, limit=1e-3)) == words


def test_one_small_step_has_not_settled() -> None:
    assert not ending_of(history((0.9, 0.0)), start=1.0, limit=1e-3).settled
