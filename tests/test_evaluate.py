"""Scoring models: what determines a score, the stage, and the memory that stages share."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import callbacks.mteb.task_fingerprint
from callbacks import MtebCallback, TaskSelection
from callbacks.mteb.mteb_encoder import MtebEncoder
from callbacks.mteb.task_evaluation import evaluate_tasks
from callbacks.mteb.task_fingerprint import task_fingerprint
from callbacks.mteb.task_loading import load_tasks
from lightning_app.stages.model import Model
from lightning_app.stages.score import Score, read_examples, read_scores
from lightning_app.stages.scorer import Scorer, revision
from lightning_app.stages.stage import ResultFolders, Stage
from lightning_app.stages.stage_graph import StageGraph
from modules import TextEncoder
from tests.tiny_encoder import Settings, tiny_encoder
from tests.tiny_mirror import PAIRS, QUERIES, SENTENCES, write_clustering, write_sts, write_xquad

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every text that a model is given to encode, with the precision."""
    seen: list[tuple[str, str]] = []
    encode = TextEncoder.encode

    def noted(self: TextEncoder, texts: Any, prompt: str = "", **options: Any) -> Any:
        seen.extend((text, options["precision"]) for text in texts)
        return encode(self, texts, prompt, **options)

    monkeypatch.setattr(TextEncoder, "encode", noted)
    return seen


@pytest.fixture
def base(tmp_path: Path) -> Model:
    """A saved model, beside the data of two tasks."""
    write_sts(tmp_path)
    write_xquad(tmp_path)
    tiny_encoder().save(tmp_path / "base")
    return Model("base", path=str(tmp_path / "base"))


def scores_stage(model: Model, data_root: Path, tasks: list[str], **options: Any) -> Score:
    settings = MtebCallback(tasks, data_root=str(data_root), **options)
    return Score(model.name, model, Scorer(settings, torch.device("cpu")))


def loaded(root: Path, name: str = "STSBenchmark", **caps: int) -> Any:
    return load_tasks(TaskSelection([name], **caps), str(root))[0]


def test_the_revision_is_of_all_that_determines_a_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in ("one", "two", "other"):
        write_sts(tmp_path / root, pairs=list(reversed(PAIRS)) if root == "other" else PAIRS)
    write_xquad(tmp_path / "one")
    a, sts = tiny_encoder(0), loaded(tmp_path / "one")

    def of(
        encoder: Any = a, sha256: str = "a", prompts: Any = None, precision: str = "float32", task: Any = sts
    ) -> str:
        return revision(encoder, sha256, prompts or {}, precision, task)

    others = [
        of(sha256="b"),
        of(prompts={"STS": "x"}),
        of(tiny_encoder(config=Settings(max_length=16))),
        of(tiny_encoder(config=Settings(max_length=32, pooling="cls"))),
        of(tiny_encoder().to(torch.bfloat16)),
        of(precision="bfloat16"),
        of(task=loaded(tmp_path / "one", max_examples=10)),
        of(task=loaded(tmp_path / "one", "XQuADRetrieval")),
        of(task=loaded(tmp_path / "other")),
    ]
    before = of()
    assert len({before, *others}) == 10
    assert of() == of(tiny_encoder(0)) == of(task=loaded(tmp_path / "two"))
    monkeypatch.setattr(callbacks.mteb.task_fingerprint, "version", lambda package: "another")
    task_fingerprint.cache_clear()
    assert of() not in {before, *others}


def test_the_precision_is_that_of_the_recipe_and_part_of_the_key(
    base: Model, tmp_path: Path, encoded: list[tuple[str, str]]
) -> None:
    graph = StageGraph(tmp_path / "run")
    for name in ("float32", "bfloat16"):
        graph.run(scores_stage(base, tmp_path, ["STSBenchmark"], precision=name))
    assert sorted(encoded) == sorted((text, name) for text in SENTENCES for name in ("float32", "bfloat16"))


def test_other_gold_scores_give_other_scores(base: Model, tmp_path: Path, encoded: list[tuple[str, str]]) -> None:
    """Of one run folder, with one mirror after another."""
    scores = [pair["score"] for pair in PAIRS]
    turned = [pair | {"score": 5 - score} for pair, score in zip(PAIRS, scores, strict=True)]
    write_sts(tmp_path / "turned", pairs=turned)
    graph = StageGraph(tmp_path / "run")
    first, second, third = (
        read_scores(graph.run(scores_stage(base, root, ["STSBenchmark"])))["STSBenchmark"]
        for root in (tmp_path, tmp_path / "turned", tmp_path)
    )
    assert first == third == pytest.approx(-second, abs=1e-6) and first != second
    assert len(encoded) == 2 * len(SENTENCES), "what was scored before is not scored again"


def test_another_task_is_scored_by_itself(base: Model, tmp_path: Path, encoded: list[tuple[str, str]]) -> None:
    write_clustering(tmp_path)
    graph = StageGraph(tmp_path / "run")
    first = graph.run(scores_stage(base, tmp_path, ["STSBenchmark", "TwentyNewsgroupsClustering"]))
    encoded.clear()
    names = ["XQuADRetrieval", "TwentyNewsgroupsClustering", "STSBenchmark"]
    second = graph.run(scores_stage(base, tmp_path, names))
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
    @dataclass(frozen=True)
    class Linked(Stage):
        kind = "model"

        def run(self, folder: Path, graph: ResultFolders) -> None:
            shutil.copytree(tmp_path / "base", folder / "model", copy_function=os.link)

    graph = StageGraph(tmp_path / "run")
    chosen = Model("mu = 0.05/1", stage=Linked("chosen"))
    first = graph.run(scores_stage(chosen, tmp_path, ["STSBenchmark"]))
    assert encoded and [path.name for path in (graph.score_cache / "results").iterdir()] == ["local__mu---0-05-1"]
    encoded.clear()
    second = graph.run(scores_stage(base, tmp_path, ["STSBenchmark"]))
    assert not encoded and first != second
    assert read_scores(first) == read_scores(second)
    assert read_examples(first, graph.score_cache) == read_examples(second, graph.score_cache) != {}
    graph.run(scores_stage(base, tmp_path, ["STSBenchmark"], prompts={"STS": "the "}))
    assert len(encoded) == len(SENTENCES), "with another prompt it is another score"


def test_a_fresh_graph_forgets_the_scores_of_tasks(base: Model, tmp_path: Path, encoded: list[tuple[str, str]]) -> None:
    for fresh in (False, True):
        graph = StageGraph(tmp_path / "run", fresh)
        graph.run(scores_stage(base, tmp_path, ["STSBenchmark"]))
    assert len(encoded) == 2 * len(SENTENCES)


def test_a_stage_of_before_the_examples_were_kept_has_none(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text('{"STSBenchmark": 50.0}')
    assert read_examples(tmp_path, tmp_path / "mteb") == {}
