"""Loading and scoring MTEB tasks."""

import json
import random
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F

from callbacks.mteb.mteb_encoder import MtebEncoder
from callbacks.mteb.task_evaluation import averages, evaluate_tasks
from callbacks.mteb.task_loading import load_tasks
from datamodules.sources.mirror import mirrored_path
from modules.encoding.text_encoder import TextEncoder
from modules.errors import UserError
from tests.tiny_encoder import tiny_encoder
from tests.tiny_mirror import (
    PAIRS,
    write_classification,
    write_clustering,
    write_multilingual,
    write_reranking,
    write_sts,
    write_xquad,
)

pytestmark = pytest.mark.usefixtures("own_cache")


def test_mirrored_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sts(tmp_path)
    copy = str(tmp_path / "mteb/stsbenchmark-sts")
    assert mirrored_path("mteb/stsbenchmark-sts", str(tmp_path)) == copy
    assert mirrored_path("mteb/absent", str(tmp_path)) == "mteb/absent"
    assert mirrored_path("mteb/stsbenchmark-sts") == "mteb/stsbenchmark-sts"
    monkeypatch.setenv("MTEB_DATA_ROOT", str(tmp_path))
    assert mirrored_path("mteb/stsbenchmark-sts") == copy
    with pytest.raises(UserError, match="data_root: .*nowhere is not a folder"):
        mirrored_path("mteb/stsbenchmark-sts", str(tmp_path / "nowhere"))


def test_score_is_the_rank_correlation_of_the_cosines(tmp_path: Path) -> None:
    write_sts(tmp_path)
    encoder = tiny_encoder()
    scores = evaluate_tasks(MtebEncoder(encoder), load_tasks(["STSBenchmark"], str(tmp_path)))
    left, right = (encoder.encode([pair[key] for pair in PAIRS]) for key in ("sentence1", "sentence2"))
    cosines = F.cosine_similarity(left, right)
    assert scores == {"STSBenchmark": pytest.approx(100 * spearmanr(cosines, [p["score"] for p in PAIRS])[0])}


def test_other_weights_other_scores_and_data_stays_loaded(tmp_path: Path) -> None:
    write_sts(tmp_path)
    write_xquad(tmp_path)
    tasks = load_tasks(["STSBenchmark", "XQuADRetrieval"], str(tmp_path))
    first, second, again = (evaluate_tasks(MtebEncoder(tiny_encoder(seed)), tasks) for seed in (0, 3, 0))
    assert first == again
    assert first != second
    assert all(task.data_loaded for task in tasks)


def test_multilingual_task_keeps_the_subsets_of_the_mirror(tmp_path: Path) -> None:
    import mteb

    write_xquad(tmp_path)
    [task] = load_tasks(["XQuADRetrieval"], str(tmp_path))
    assert (task.hf_subsets, task.eval_splits) == (["en"], ["validation"])
    fresh = mteb.get_task("XQuADRetrieval")
    assert len(fresh.hf_subsets) == 12
    assert fresh.metadata.dataset["path"] == "mteb/XQuADRetrieval", "metadata shared by all instances was changed"


def test_every_loader_of_mteb_reads_the_mirror(tmp_path: Path) -> None:
    """Scores are those of a task just made, however often it was evaluated, and mteb's classes stay as they were."""
    import mteb

    names = {
        "STSBenchmark": write_sts,
        "XQuADRetrieval": write_xquad,
        "AskUbuntuDupQuestions": write_reranking,
        "Banking77Classification": write_classification,
        "AmazonCounterfactualClassification": write_multilingual,
        "TwentyNewsgroupsClustering": write_clustering,
    }
    for write in names.values():
        write(tmp_path)
    paths = {name: mteb.get_task(name).metadata.dataset["path"] for name in names}
    tasks = load_tasks(list(names), str(tmp_path))
    first, again = (evaluate_tasks(MtebEncoder(tiny_encoder()), tasks) for _ in range(2))
    assert first == again and set(first) == set(names)
    assert {task.metadata.name: len(task.hf_subsets) for task in tasks}["AmazonCounterfactualClassification"] == 2
    assert {name: mteb.get_task(name).metadata.dataset["path"] for name in names} == paths
    means = averages(tasks, first)
    assert means["average/Classification"] == pytest.approx(
        (first["Banking77Classification"] + first["AmazonCounterfactualClassification"]) / 2
    )
    assert means["average"] == pytest.approx(sum(first.values()) / len(names))


def test_without_a_network_a_missing_data_set_is_one_quick_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.sources.mirror._answers", lambda endpoint: False)
    load_tasks(["PythonDocsSTS"])  # waits for mteb
    started = time.perf_counter()
    with pytest.raises(UserError) as caught:
        load_tasks(["SciFact"], str(tmp_path))
    assert time.perf_counter() - started < 5
    assert f"{tmp_path}/mteb/scifact (not there) or mteb/scifact on the hub" in str(caught.value)
    assert not datasets.config.HF_HUB_OFFLINE, "other data sets may still be fetched"


def test_results_are_written_and_reused(tmp_path: Path) -> None:
    write_sts(tmp_path)
    tasks = load_tasks(["STSBenchmark"], str(tmp_path))
    model = MtebEncoder(tiny_encoder(0), "org/model", "abc")
    scores = evaluate_tasks(model, tasks, results_dir=str(tmp_path / "results"))
    [file] = (tmp_path / "results").rglob("STSBenchmark.json")
    assert file.parent.name == "abc"
    assert json.loads(file.read_text())["scores"]["test"][0]["main_score"] * 100 == pytest.approx(
        scores["STSBenchmark"]
    )
    same_revision = MtebEncoder(tiny_encoder(1), "org/model", "abc")
    reused = evaluate_tasks(same_revision, tasks, results_dir=str(tmp_path / "results"))
    assert reused["STSBenchmark"] == pytest.approx(scores["STSBenchmark"], abs=1e-3)


def test_random_numbers_are_left_alone(tmp_path: Path) -> None:
    write_sts(tmp_path)

    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(1))]

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed()
    expected = draw()
    model = MtebEncoder(tiny_encoder())
    seed()
    evaluate_tasks(model, load_tasks(["STSBenchmark"], str(tmp_path)))
    assert draw() == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("STSBenchmrk", "no MTEB task STSBenchmrk; did you mean STSBenchmark?"),
        ("PythonDocSTS", "did you mean PythonDocsSTS?"),
        ("qqqqqq", r"see mteb.get_tasks\(\)"),
        ("CQADupstackRetrieval", "only averages other tasks; name these instead: CQADupstackAndroid"),
        ("CIFAR10", "CIFAR10 needs image"),
    ],
)
def test_wrong_names(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_tasks([name])


def test_missing_split(tmp_path: Path) -> None:
    write_sts(tmp_path, split="train")
    with pytest.raises(UserError, match="stsbenchmark-sts has no split test, on which STSBenchmark is scored"):
        load_tasks(["STSBenchmark"], str(tmp_path))


def test_unreadable_data(tmp_path: Path) -> None:
    write_sts(tmp_path).write_text("no json")
    with pytest.raises(UserError, match="cannot read the data of STSBenchmark from .*stsbenchmark-sts"):
        load_tasks(["STSBenchmark"], str(tmp_path))


PYTHON_DOCS = ["PythonDocsSTS", "PythonDocsRetrieval", "PythonDocsClassification"]


def test_python_docs_tasks() -> None:
    from datamodules.sources import python_docs

    tasks = load_tasks(PYTHON_DOCS)
    scores = evaluate_tasks(MtebEncoder(tiny_encoder()), tasks, batch_size=256)
    assert list(scores) == PYTHON_DOCS
    queries, corpus, qrels = python_docs.test_retrieval()
    assert len(queries) == len(qrels) and len(corpus) >= len(queries)
    assert 0 <= scores["PythonDocsRetrieval"] < 50, "an untrained model hardly retrieves"


@pytest.mark.minilm
def test_minilm_knows_python_docs() -> None:
    """The tasks made here are neither trivial nor out of reach."""
    encoder = TextEncoder.load("sentence-transformers/all-MiniLM-L6-v2")
    scores = evaluate_tasks(MtebEncoder(encoder), load_tasks(PYTHON_DOCS))
    assert 20 < scores["PythonDocsSTS"] < 95
    assert 40 < scores["PythonDocsClassification"] < 90
    assert 30 < scores["PythonDocsRetrieval"] < 98


def test_mirrors_with_data_of_one_name_are_not_mixed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def documents(mirror: str) -> list[str]:
        monkeypatch.setattr("callbacks.mteb.task_loading._loaded", {})  # as in another process
        [task] = load_tasks(["XQuADRetrieval"], str(tmp_path / mirror))
        data: Any = task.dataset
        return list(data["en"]["validation"]["corpus"]["text"])

    for mirror in ("one", "other"):
        write_xquad(tmp_path / mirror)
    corpus = tmp_path / "other/mteb/XQuADRetrieval/en-corpus/validation.jsonl"
    before = documents("one")
    corpus.write_text(corpus.read_text().replace("a cat sits", "a cat runs"))
    assert documents("other") == ["a cat runs", *before[1:]] != documents("one") == before
    corpus.write_text(corpus.read_text().replace("a cat runs", "the sky falls"))
    assert documents("other") == ["the sky falls", *before[1:]], "the file was changed in its place"
