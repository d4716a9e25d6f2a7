"""A mirror of hub data sets with a handful of rows each, in the layout of the real ones."""

import json
from pathlib import Path
from typing import Any

PAIRS: list[dict[str, Any]] = [
    {"sentence1": "a red cat", "sentence2": "the red cat", "score": 4.8},
    {"sentence1": "a red cat", "sentence2": "a blue dog", "score": 1.5},
    {"sentence1": "the sky is blue", "sentence2": "a red ball", "score": 0.4},
    {"sentence1": "the dog runs", "sentence2": "a dog runs", "score": 4.9},
    {"sentence1": "the ball is red", "sentence2": "a cat sits", "score": 0.9},
    {"sentence1": "the cat sits", "sentence2": "a dog sits", "score": 2.2},
]

QUERIES = [{"_id": f"q{i}", "text": text} for i, text in enumerate(["cat sits", "blue sky", "dog runs"])]
CORPUS = [
    {"_id": "d0", "title": "cat", "text": "a cat sits"},
    {"_id": "d1", "title": "", "text": "the sky is blue"},
    {"_id": "d2", "title": "the dog", "text": "runs a ball"},
    {"_id": "d3", "title": "the dog", "text": "is red"},
]
QRELS = [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1} for i in range(3)]


def write_sts(root: Path, split: str = "test", pairs: list[dict[str, Any]] = PAIRS) -> Path:
    """The data set of the task STSBenchmark, one split."""
    return _write(root / "mteb/stsbenchmark-sts" / f"{split}.jsonl", pairs)


def write_xquad(root: Path) -> Path:
    """The data set of the task XQuADRetrieval, in English only."""
    folder = root / "mteb/XQuADRetrieval"
    configs = []
    for name, rows in [("en-corpus", CORPUS), ("en-queries", QUERIES), ("en-qrels", QRELS)]:
        _write(folder / name / "validation.jsonl", rows)
        configs += [f"- config_name: {name}", "  data_files:", "  - split: validation"]
        configs += [f"    path: {name}/validation.jsonl"]
    (folder / "README.md").write_text("\n".join(["---", "configs:", *configs, "---", ""]))
    return folder


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
