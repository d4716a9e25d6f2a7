"""The held-out part of ``python_docs`` as ordinary MTEB tasks, for scoring without any download.

Importing this module imports mteb, which takes seconds: ``load_tasks`` does so when a task is asked for.
"""

from typing import Any

from datasets import Dataset, DatasetDict
from mteb import TaskMetadata
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.sts import AbsTaskSTS

from datamodules.sources.python_docs import test_classification, test_relatedness, test_retrieval

# Read from the running environment, so there is nothing to fetch and no published revision.
SOURCE: Any = {"path": "python_docs", "revision": "installed"}


class PythonDocsSTS(AbsTaskSTS):
    """Summaries of two documented Python objects, graded in [0, 1] by how near the objects live."""

    metadata = TaskMetadata(
        name="PythonDocsSTS",
        description="How closely two Python objects are related, judged by the summaries of their documentation.",
        type="STS",
        category="t2t",
        dataset=SOURCE,
        eval_langs=["eng-Latn"],
        main_score="cosine_spearman",
    )
    min_score = 0
    max_score = 1

    def load_data(self, *_: Any, **__: Any) -> None:
        """Read the pairs from the installed documentation."""
        sentence1, sentence2, score = test_relatedness()
        rows = {"sentence1": sentence1, "sentence2": sentence2, "score": score}
        self.dataset = {"default": DatasetDict(test=Dataset.from_dict(rows))}
        self.data_loaded = True


class PythonDocsRetrieval(AbsTaskRetrieval):
    """Find the body of a Python object's documentation by its summary line."""

    metadata = TaskMetadata(
        name="PythonDocsRetrieval",
        description="Retrieve the body of a Python object's documentation by its summary line.",
        type="Retrieval",
        category="t2t",
        dataset=SOURCE,
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    def load_data(self, *_: Any, **__: Any) -> None:
        """Read queries, corpus and qrels from the installed documentation."""
        queries, corpus, qrels = test_retrieval()
        split = RetrievalSplitData(corpus=_table(corpus), queries=_table(queries), relevant_docs=qrels, top_ranked=None)
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class PythonDocsClassification(AbsTaskClassification):
    """Tell by its summary whether documentation is that of a module, a class or a function."""

    metadata = TaskMetadata(
        name="PythonDocsClassification",
        description="Tell by its summary whether documentation is that of a module, a class or a function.",
        type="Classification",
        category="t2c",
        dataset=SOURCE,
        eval_langs=["eng-Latn"],
        main_score="accuracy",
    )

    def load_data(self, *_: Any, **__: Any) -> None:
        """Read the summaries from the installed documentation."""
        parts = {
            part: Dataset.from_dict({"text": texts, "label": labels})
            for part, (texts, labels) in test_classification().items()
        }
        self.dataset = {"default": DatasetDict(parts)}
        self.data_loaded = True


def _table(texts: dict[str, str]) -> Dataset:
    """Return a table with the columns ``id`` and ``text``."""
    return Dataset.from_dict({"id": list(texts), "text": list(texts.values())})
