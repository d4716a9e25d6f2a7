"""MTEB tasks capped, for watching a training: fewer examples, and of a corpus only a part."""

import random
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

if TYPE_CHECKING:
    from mteb import AbsTask

MARK = "-capped"
"""Begins what is added to the name of a task that was made smaller."""

SEED = 0
"""Of all draws, so that the same part is kept in every run."""


def full_name(name: str) -> str:
    """Return the name of the task that a capped one was made of; any other name as it is."""
    return name.partition(MARK)[0]


def cap_task(task: "AbsTask", max_examples: int | None, max_corpus: int | None) -> None:
    """Keep only a part of a loaded task, always the same one.

    Of a retrieval task ``max_examples`` queries are kept, and of the corpus every document that is relevant to them (or
    a candidate, where a task says which documents are ranked), filled up to ``max_corpus`` with others; where these
    alone are more, as many queries as have room, and at least one. Of any other task ``max_examples`` examples are
    kept; what a classifier is trained on stays whole.

    Args:
        task: changed in place. If anything was dropped it gets another name, ``SciFact-capped-100-corpus-500``, so that
            no score of the whole task is taken for its own.
        max_examples: None: all.
        max_corpus: None: all.
    """
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    retrieval = isinstance(task, AbsTaskRetrieval)
    if max_examples is None and not (retrieval and max_corpus is not None):
        return
    assert task.dataset is not None
    dropped = False
    for subset in task.hf_subsets:
        splits: Any = task.dataset.get(subset, task.dataset)  # a task with one subset may leave the level out
        for split in task.eval_splits:
            rows = splits[split]
            splits[split] = (
                _capped_retrieval(rows, max_examples, max_corpus) if retrieval else _capped(rows, max_examples)
            )
            dropped |= splits[split] is not rows
    if dropped:
        numbers = [str(max_examples)] if max_examples is not None else []
        numbers += ["corpus", str(max_corpus)] if retrieval and max_corpus is not None else []
        name = "-".join([task.metadata.name + MARK, *numbers])
        task.metadata = task.metadata.model_copy(update={"name": name})


def _capped(rows: Dataset, size: int | None) -> Dataset:
    """Return ``size`` of the rows; of an older task, whose rows each hold a list of examples, ``size`` of each list."""
    if size is None:
        return rows
    lists = [column for column, values in rows[0].items() if isinstance(values, list)]
    lengths = {len(rows[0][column]) for column in lists}
    if len(lists) > 1 and len(lengths) == 1:  # sentences and labels, say
        if all(len(row[lists[0]]) <= size for row in rows):
            return rows
        return Dataset.from_list([_shortened(row, lists, size) for row in rows], features=rows.features)
    return rows if len(rows) <= size else rows.select(_sample(len(rows), size))


def _shortened(row: dict[str, Any], lists: list[str], size: int) -> dict[str, Any]:
    kept = _sample(len(row[lists[0]]), size)
    return row | {column: [row[column][i] for i in kept] for column in lists}


def _capped_retrieval(data: Any, max_examples: int | None, max_corpus: int | None) -> Any:
    """Return ``max_examples`` of the queries, and ``max_corpus`` documents, those that they require among them."""
    corpus, qrels, top_ranked = (data[key] for key in ("corpus", "relevant_docs", "top_ranked"))
    queries = data["queries"] if max_examples is None else _capped(data["queries"], max_examples)
    if max_corpus is not None and len(corpus) > max_corpus:
        queries = _queries_that_fit(queries, data, max_corpus)
        required = {document for query in queries["id"] for document in _required_documents(query, data)}
        is_required = np.fromiter((document in required for document in corpus["id"]), dtype=bool, count=len(corpus))
        others = np.flatnonzero(~is_required)
        chosen = others[_sample(len(others), max(0, max_corpus - int(is_required.sum())))]
        kept = np.union1d(np.flatnonzero(is_required), chosen)
        corpus = corpus if len(kept) == len(corpus) else corpus.select(kept)
    if queries is data["queries"] and corpus is data["corpus"]:
        return data
    ids = set(queries["id"])
    qrels = {query: documents for query, documents in qrels.items() if query in ids}
    if top_ranked is not None:
        top_ranked = {query: documents for query, documents in top_ranked.items() if query in ids}
    return type(data)(corpus=corpus, queries=queries, relevant_docs=qrels, top_ranked=top_ranked)


def _queries_that_fit(queries: Dataset, data: Any, max_corpus: int) -> Dataset:
    """Return as many queries, in a random order, as require no more than ``max_corpus`` documents together."""
    ids: list[str] = list(queries["id"])
    required: set[str] = set()
    order = random.Random(SEED).sample(range(len(ids)), len(ids))
    for count, i in enumerate(order):
        required |= _required_documents(ids[i], data)
        if len(required) > max_corpus:
            return queries.select(sorted(order[: max(1, count)]))
    return queries


def _required_documents(query: str, data: Any) -> set[str]:
    """Return the documents that a query cannot do without: those relevant to it, and its candidates."""
    relevant = {document for document, score in data["relevant_docs"].get(query, {}).items() if score > 0}
    return relevant if data["top_ranked"] is None else relevant.union(data["top_ranked"].get(query, ()))


def _sample(size: int, count: int) -> list[int]:
    """Return ``count`` of the numbers below ``size``, in order."""
    return sorted(random.Random(SEED).sample(range(size), min(count, size)))
