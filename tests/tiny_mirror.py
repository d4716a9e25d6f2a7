"""A mirror of hub data sets with a handful of rows each, in the layout of the real ones."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

SENTENCES = [
    "a red cat",
    "the red cat sits",
    "a blue dog",
    "the sky is blue",
    "a red ball",
    "the dog runs",
    "the ball is red",
    "a cat",
]


def _pair(one: str, two: str) -> dict[str, Any]:
    """Two sentences, scored 0 to 5 by the share of their words that they have in common."""
    words = set(one.split()), set(two.split())
    return {"sentence1": one, "sentence2": two, "score": 5 * len(words[0] & words[1]) / len(words[0] | words[1])}


PAIRS = [_pair(one, two) for one, two in combinations(SENTENCES, 2)]

QUERIES: list[dict[str, Any]] = [
    {"_id": f"q{i}", "text": text} for i, text in enumerate(["cat sits", "blue sky", "dog runs"])
]
CORPUS: list[dict[str, Any]] = [
    {"_id": "d0", "title": "cat", "text": "a cat sits"},
    {"_id": "d1", "title": "", "text": "the sky is blue"},
    {"_id": "d2", "title": "the dog", "text": "runs a ball"},
    {"_id": "d3", "title": "the dog", "text": "is red"},
]
QRELS: list[dict[str, Any]] = [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1} for i in range(3)]

LABELLED: list[dict[str, Any]] = [{"text": sentence, "label": int("cat" in sentence)} for sentence in SENTENCES]


def write_sts(root: Path, split: str = "test", pairs: list[dict[str, Any]] = PAIRS) -> Path:
    """The data set of the task STSBenchmark, one split."""
    return _write(root / "mteb/stsbenchmark-sts" / f"{split}.jsonl", pairs)


def write_xquad(root: Path) -> Path:
    """The data set of the task XQuADRetrieval, in English only."""
    tables = {"en-corpus": CORPUS, "en-queries": QUERIES, "en-qrels": QRELS}
    return _write_configs(root / "mteb/XQuADRetrieval", tables, "validation")


def write_reranking(root: Path) -> Path:
    """The data set of the task AskUbuntuDupQuestions."""
    candidates = [{"query-id": f"q{i}", "corpus-ids": [f"d{i}", f"d{i + 1}"]} for i in range(3)]
    tables = {"corpus": CORPUS, "queries": QUERIES, "default": QRELS, "top_ranked": candidates}
    return _write_configs(root / "mteb/AskUbuntuDupQuestions", tables, "test")


def write_classification(root: Path) -> Path:
    """The data set of the task Banking77Classification."""
    folder = root / "mteb/banking77"
    _write(folder / "test.jsonl", LABELLED)
    return _write(folder / "train.jsonl", LABELLED * 4)


def write_multilingual(root: Path) -> Path:
    """The data set of the task AmazonCounterfactualClassification, in two of its languages."""
    folder = root / "mteb/amazon_counterfactual"
    configs = []
    for language in ("de", "en"):
        configs += [f"- config_name: {language}", "  data_files:"]
        for split, times in {"train": 8, "test": 1}.items():
            _write(folder / language / f"{split}.jsonl", LABELLED * times)
            configs += [f"  - split: {split}", f"    path: {language}/{split}.jsonl"]
    return _write_card(folder, configs)


def write_clustering(root: Path) -> Path:
    """The data set of the task TwentyNewsgroupsClustering: two lists of sentences."""
    labels = [int("cat" in sentence) for sentence in SENTENCES]
    rows = [{"sentences": SENTENCES[i:], "labels": labels[i:]} for i in range(2)]
    return _write(root / "mteb/twentynewsgroups-clustering/test.jsonl", rows)


def _write_configs(folder: Path, tables: dict[str, list[dict[str, Any]]], split: str) -> Path:
    configs = []
    for name, rows in tables.items():
        _write(folder / name / f"{split}.jsonl", rows)
        configs += [f"- config_name: {name}", "  data_files:", f"  - split: {split}", f"    path: {name}/{split}.jsonl"]
    return _write_card(folder, configs)


def _write_card(folder: Path, configs: list[str]) -> Path:
    (folder / "README.md").write_text("\n".join(["---", "configs:", *configs, "---", ""]))
    return folder


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
