"""Scoring models: what determines a score, the stage, and the memory that stages share."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_app.evaluate
from callbacks import MtebCallback
from callbacks.mteb_encoder import MtebEncoder
from callbacks.mteb_tasks import evaluate_tasks, load_tasks
from lightning_app.evaluate import Scorer, read_examples, read_scores, revision
from lightning_app.model import Model
from lightning_app.stages import Stage, StageGraph
from modules import TextEncoder
from modules.st_folder import EncoderConfig
from tests.tiny_encoder import tiny_encoder
from tests.tiny_mirror import QUERIES, SENTENCES, write_clustering, write_sts, write_xquad

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every text that a model is given to encode, with the precision."""
    seen: list[tuple[str, str]] = []
    encode = TextEncoder.encode

    def noted(self: TextEncoder, texts: Any, **options: Any) -> Any:
        seen.extend((text, options["precision"]) for text in texts)
        return encode(self, texts, **options)

    monkeypatch.setattr(TextEncoder, "encode", noted)
    return seen


@pytest.fixture
def base(tmp_path: Path) -> Model:
    """A saved model, beside the data of two tasks."""
    write_sts(tmp_path)
    write_xquad(tmp_path)
    tiny_encoder().save(tmp_path / "base")
    return Model("base", path=str(tmp_path / "base"))


def scores_stage(model: Model, graph: StageGraph, data_root: Path, tasks: list[str], **options: Any) -> Stage:
    settings = MtebCallback(tasks, data_root=str(data_root), **options)
    return Scorer(settings, torch.device("cpu")).stage(model, graph)


def test_the_revision_is_of_all_that_determines_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    a = tiny_encoder(0)

    def of(
        encoder: Any = a, weights: str = "a", prompts: Any = None, precision: str = "float32", task: str = "x"
    ) -> str:
        return revision(encoder, weights, prompts or {}, precision, task)

    others = [
        of(weights="b"),
        of(prompts={"STS": "x"}),
        of(tiny_encoder(config=EncoderConfig(max_length=16))),
        of(tiny_encoder(config=EncoderConfig(max_length=32, pooling="cls"))),
        of(tiny_encoder().to(torch.bfloat16)),
        of(precision="bfloat16"),
        of(task="PythonDocsSTS-capped-10"),
    ]
    assert len({of(), *others}) == 8
    assert of() == of(tiny_encoder(0)) == of(task="y")
    parts = ["a", "torch.float32", asdict(a.config), {}]
    before = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    assert of() == before, "results of before there was a choice are still found"
    monkeypatch.setattr(lightning_app.evaluate, "held_out_fingerprint", lambda: "another environment")
    assert of(task="PythonDocsSTS-capped-10") not in others and of() == before


def test_the_precision_is_that_of_the_recipe_and_part_of_the_key_unless_it_is_float32(
    base: Model, tmp_path: Path, encoded: list[tuple[str, str]]
) -> None:
    graph = StageGraph(tmp_path / "run")
    exact, rounded = (
        scores_stage(base, graph, tmp_path, ["STSBenchmark"], precision=name) for name in ("float32", "bfloat16")
    )
    assert "precision" not in exact.content and rounded.content["precision"] == "bfloat16"
    graph.run(exact)
    graph.run(rounded)
    assert sorted(encoded) == sorted((text, name) for text in SENTENCES for name in ("float32", "bfloat16"))


def test_another_task_is_scored_by_itself(base: Model, tmp_path: Path, encoded: list[tuple[str, str]]) -> None:
    write_clustering(tmp_path)
    graph = StageGraph(tmp_path / "run")
    first = graph.run(scores_stage(base, graph, tmp_path, ["STSBenchmark", "TwentyNewsgroupsClustering"]))
    encoded.clear()
    names = ["XQuADRetrieval", "TwentyNewsgroupsClustering", "STSBenchmark"]
    second = graph.run(scores_stage(base, graph, tmp_path, names))
    assert {query["text"] for query in QUERIES} <= {text for text, _ in encoded}
    assert not {text for text, _ in encoded} & set(SENTENCES[:2])
    scores = read_scores(second)
    assert list(scores) == names and scores.items() >= read_scores(first).items()
    expected = evaluate_tasks(MtebEncoder(tiny_encoder()), load_tasks(names, str(tmp_path)))
    assert scores == pytest.approx(expected, abs=1e-4)
    examples = read_examples(second, graph.score_cache)
    assert {task: {part: len(of) for part, of in found.items()} for task, found in examples.items()} == {
        "XQuADRetrieval": {"en/validation": 3},
        "STSBenchmark": {"default/test": 28},
    }
    assert examples["STSBenchmark"] == read_examples(first, graph.score_cache)["STSBenchmark"]


def test_equal_weights_are_scored_once_whatever_they_are_called(
    base: Model, tmp_path: Path, encoded: list[tuple[str, str]]
) -> None:
    def linked(folder: Path) -> None:
        shutil.copytree(tmp_path / "base", folder / "model", copy_function=os.link)

    graph = StageGraph(tmp_path / "run")
    chosen = Model("mu = 0.05/1", stage=Stage("model", "chosen", {"mu": 0.05}, linked))
    first = graph.run(scores_stage(chosen, graph, tmp_path, ["STSBenchmark"]))
    assert encoded and [path.name for path in (graph.score_cache / "results").iterdir()] == ["local__mu---0-05-1"]
    encoded.clear()
    second = graph.run(scores_stage(base, graph, tmp_path, ["STSBenchmark"]))
    assert not encoded and first != second
    assert read_scores(first) == read_scores(second)
    assert read_examples(first, graph.score_cache) == read_examples(second, graph.score_cache) != {}
    graph.run(scores_stage(base, graph, tmp_path, ["STSBenchmark"], prompts={"STS": "the "}))
    assert len(encoded) == len(SENTENCES), "with another prompt it is another score"


def test_a_fresh_graph_forgets_the_scores_of_tasks(base: Model, tmp_path: Path, encoded: list[tuple[str, str]]) -> None:
    for fresh in (False, True):
        graph = StageGraph(tmp_path / "run", fresh)
        graph.run(scores_stage(base, graph, tmp_path, ["STSBenchmark"]))
    assert len(encoded) == 2 * len(SENTENCES)


def test_a_stage_of_before_the_examples_were_kept_has_none(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text('{"STSBenchmark": 50.0}')
    assert read_examples(tmp_path, tmp_path / "mteb") == {}
