"""Which columns of a source are which."""

import pytest

from datamodules import DataSource
from datamodules.sources.columns import find_columns
from modules.errors import UserError


@pytest.mark.parametrize(
    ("names", "read"),
    [
        ("anchor positive", "pairs a=anchor p=positive"),
        ("query pos neg", "pairs a=query p=pos n=neg"),
        ("query positive negatives", "pairs a=query p=positive n=negatives"),
        ("question answer context", "pairs a=question p=answer"),
        ("anchor positives negative", "pairs a=anchor p=positives n=negative"),
        ("anchor positive pos neg negative", "pairs a=anchor p=positive n=negative"),
        ("anchor positive neg negative_1", "pairs a=anchor p=positive n=negative_1"),
        ("query pos neg negatives", "pairs a=query p=pos"),
        ("text label query answer", "labelled a=text"),
        ("sentence1 sentence2 score query pos", "graded a=sentence1 p=sentence2"),
        ("anchor positive text label", "pairs a=anchor p=positive"),
    ],
)
def test_names_of_other_tools(names: str, read: str) -> None:
    found = find_columns(DataSource("x"), set(names.split()))
    columns = [*found.texts.values(), *found.negatives.values()]
    assert " ".join([found.kind, *(f"{k}={c}" for k, c in zip("apn", columns, strict=False))]) == read


@pytest.mark.parametrize("names", ["query question pos", "query pos answer", "query", "pos neg", "questions answers"])
def test_names_that_may_mean_several_things(names: str) -> None:
    with pytest.raises(UserError, match=f"found columns {', '.join(sorted(names.split()))}; needs anchor, positive"):
        find_columns(DataSource("x"), set(names.split()))


def test_what_was_assumed_is_said() -> None:
    names = {"query", "pos", "neg", "pos_scores"}
    assert find_columns(DataSource("x"), names).notes == [
        "column 'query' is read as anchor",
        "column 'pos' is read as positive",
        "column 'neg' is read as negative",
        "columns that are not used: pos_scores",
    ]
    renamed = find_columns(DataSource("x", columns={"anchor": "query", "positive": "neg"}), names)
    assert (renamed.texts, renamed.negatives) == ({"anchor": "query", "positive": "neg"}, {})
    assert renamed.notes == ["columns that are not used: pos, pos_scores"]
