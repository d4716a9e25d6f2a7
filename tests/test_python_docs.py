import ast
import time

import pytest

from datamodules.sources import documented_objects, python_docs
from datamodules.sources.documented_objects import OBJECTS, Entry
from datamodules.sources.python_docs import load_python_docs, nearness
from modules.errors import UserError


def all_texts(rows: python_docs.Rows) -> list[str]:
    return [text.casefold() for column in rows.texts for text in column]


def test_reading_the_documentation_is_quick() -> None:
    start = time.process_time()
    load_python_docs("retrieval")
    assert time.process_time() - start < 20  # about 4 s on one core


def test_the_two_tasks_are_uneven_and_balanced_in_grades() -> None:
    retrieval, relatedness = load_python_docs("retrieval"), load_python_docs("relatedness")
    assert len(retrieval.groups) > 2 * len(relatedness.groups) > 1000
    assert retrieval.target is None
    assert relatedness.target is not None
    assert set(relatedness.target) == set(python_docs.GRADES)
    assert max(map(relatedness.target.count, python_docs.GRADES)) < len(relatedness.target) / 2


def test_no_text_of_retrieval_and_relatedness_occurs_twice_in_any_split() -> None:
    rows = [load_python_docs(task, split) for task in ("retrieval", "relatedness") for split in ("train", "test")]
    texts = [text for part in rows for text in all_texts(part)]
    assert len(texts) == len(set(texts))


def test_no_text_to_classify_is_trained_on() -> None:
    tested = all_texts(load_python_docs("classification", "test"))
    trained = {
        text for task in ("retrieval", "relatedness", "classification") for text in all_texts(load_python_docs(task))
    }
    assert len(tested) == len(set(tested)) > 500 and not trained & set(tested)


def test_every_object_is_labelled_by_what_it_is() -> None:
    method = 'class C:\n    """A class."""\n    def f(self):\n        """A method."""'
    source = f'"""A module."""\n{method}\nasync def g():\n    """A function."""'
    found = documented_objects._documented(ast.parse(source), "p", "p.m", "")
    assert [(entry.summary, entry.what) for entry in found] == [
        ("A module.", "module"),
        ("A class.", "class"),
        ("A method.", "function"),
        ("A function.", "function"),
    ]
    assert set(load_python_docs("classification").target or []) == set(range(len(OBJECTS)))


def test_blocks_are_either_for_training_or_for_testing() -> None:
    for task in ("retrieval", "relatedness", "classification"):
        train, test = (set(load_python_docs(task, split).groups) for split in ("train", "test"))
        assert train and test and not train & test


def test_texts_are_long_enough_and_capped() -> None:
    (summaries, bodies), _, _ = load_python_docs("retrieval")
    assert all(len(text.split()) >= 3 for text in summaries)
    assert all(8 <= len(text.split()) <= documented_objects.BODY_WORDS for text in bodies)


def test_reading_again_gives_the_same_rows() -> None:
    first = load_python_docs("relatedness")
    for cached in (documented_objects.documented_objects, python_docs._relatedness):
        cached.cache_clear()
    assert load_python_docs("relatedness") == first


def test_held_out_retrieval_has_one_document_a_query() -> None:
    queries, corpus, qrels = python_docs.test_retrieval(max_queries=50)
    assert len(queries) == 50 < len(corpus) <= 1500
    assert queries.keys() == qrels.keys()
    assert all(set(documents) <= corpus.keys() for documents in qrels.values())


def test_held_out_relatedness_is_capped() -> None:
    assert [len(column) for column in python_docs.test_relatedness(max_pairs=20)] == [20, 20, 20]


def test_held_out_classification_has_examples_of_every_label_beside_the_texts_to_classify() -> None:
    parts = python_docs.test_classification(per_label=60, examples=20)
    for part, count in (("train", 20), ("test", 40)):
        assert [parts[part][1].count(label) for label in range(len(OBJECTS))] == [count] * len(OBJECTS)
    assert not set(parts["train"][0]) & set(parts["test"][0])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (("numpy", "numpy.linalg.a", "C"), 1.0),
        (("numpy", "numpy.linalg.a", "D"), 0.75),
        (("numpy", "numpy.linalg.b", "C"), 0.5),
        (("numpy", "numpy.ma.a", "C"), 0.25),
        (("networkx", "networkx.a", "C"), 0.0),
    ],
)
def test_nearness(other: tuple[str, str, str], expected: float) -> None:
    assert nearness(Entry("numpy", "numpy.linalg.a", "C", "", ""), Entry(*other, "", "")) == expected


def test_modules_at_the_top_of_the_standard_library_share_no_folder() -> None:
    assert nearness(Entry("python", "argparse", "", "", ""), Entry("python", "bisect", "", "", "")) == 0.25


def test_unknown_task() -> None:
    with pytest.raises(
        UserError, match="python_docs has no task 'sts': set 'task' to retrieval, relatedness, classification"
    ):
        load_python_docs("sts")
