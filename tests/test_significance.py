"""The significance of a difference against the obvious way to compute it, on real results of mteb."""

import json
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from callbacks import MtebCallback
from callbacks.mteb.mteb_encoder import MtebEncoder
from callbacks.mteb.result_cache import evaluate_cached
from callbacks.mteb.score_differences import resampled_differences
from callbacks.mteb.task_evaluation import evaluate_task, main_score
from callbacks.mteb.task_loading import load_tasks
from lightning_app.report.significance import Row, read_row, significance, task_seed
from lightning_app.stages.model import Model
from lightning_app.stages.score import Score
from lightning_app.stages.scorer import Scorer
from lightning_app.stages.stage_graph import StageGraph
from modules.bootstrap import RESAMPLES, spearman_differences
from tests.tiny_encoder import tiny_encoder
from tests.tiny_mirror import (
    LABELLED,
    PAIRS,
    write_classification,
    write_clustering,
    write_multilingual,
    write_sts,
    write_xquad,
)

pytestmark = pytest.mark.usefixtures("own_cache")

WRITERS = {
    "STSBenchmark": write_sts,
    "XQuADRetrieval": write_xquad,
    "Banking77Classification": write_classification,
    "AmazonCounterfactualClassification": write_multilingual,
    "TwentyNewsgroupsClustering": write_clustering,
}
GOLD = [pair["score"] for pair in PAIRS]


def tasks_and_rows(folder: Path, names: list[str]) -> tuple[list[Any], Row, Row]:
    """Tiny tasks, and what two models get on them."""
    for name in names:
        WRITERS[name](folder)
    tasks, rows = load_tasks(names, str(folder)), []
    for seed in (0, 3):
        encoder = MtebEncoder(tiny_encoder(seed), f"local/{seed}")
        found = {task.metadata.name: evaluate_cached(encoder, task, folder / "out") for task in tasks}
        scores = {name: main_score(result) for name, (result, _) in found.items()}
        rows.append(Row(scores, {name: examples for name, (_, examples) in found.items()}))
    return tasks, *rows


def part_score(name: str, examples: list[float], rows: list[int]) -> float:
    """The score of a part of a task on some of its examples."""
    if name == "STSBenchmark":
        return float(spearmanr([examples[i] for i in rows], [GOLD[i] for i in rows])[0])
    return sum(examples[i] for i in rows) / len(rows)


def slow_draws(name: str, a: Row, b: Row) -> list[float]:
    """The differences of one task, by every draw."""
    found = [0.0] * RESAMPLES
    parts = sorted(a.examples[name])
    for number, part in enumerate(parts):
        first, second = a.examples[name][part], b.examples[name][part]
        draws = np.random.default_rng(task_seed(name) + number).integers(0, len(first), (RESAMPLES, len(first)))
        for draw, rows in enumerate(draws.tolist()):
            found[draw] += 100 * (part_score(name, second, rows) - part_score(name, first, rows)) / len(parts)
    return found


def test_intervals_are_those_of_the_slow_way(tmp_path: Path) -> None:
    tasks, a, b = tasks_and_rows(tmp_path, list(WRITERS))
    groups = {"two": ["STSBenchmark", "TwentyNewsgroupsClustering"], "one": ["TwentyNewsgroupsClustering"]}
    found = significance(tasks, a, b, groups)
    assert found.constant == ["TwentyNewsgroupsClustering"] and list(found.tasks) == list(WRITERS)
    clustering = b.scores["TwentyNewsgroupsClustering"] - a.scores["TwentyNewsgroupsClustering"]
    assert found.tasks["TwentyNewsgroupsClustering"] == (clustering, None)
    total, drawn = [clustering] * RESAMPLES, {}
    for name in list(WRITERS)[:-1]:
        drawn[name] = draws = slow_draws(name, a, b)
        assert found.tasks[name].observed == b.scores[name] - a.scores[name]
        assert found.tasks[name].interval == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=1e-9)
        total = [one + other for one, other in zip(total, draws, strict=True)]
    low, high = np.quantile(total, [0.025, 0.975]) / len(tasks)
    assert found.average.interval == pytest.approx((low, high), abs=1e-9)
    assert found.average.observed == pytest.approx(np.mean(list(b.scores.values())) - np.mean(list(a.scores.values())))
    assert low < found.average.observed < high
    # Two of the tasks are of one type.
    of_type = [name for name in WRITERS if name.endswith("Classification")]
    differences = {name: found.tasks[name].observed for name in WRITERS}
    classification = np.mean([differences.pop(name) for name in of_type])
    assert found.types["Classification"].observed == pytest.approx(classification)
    assert found.means["Mean (TaskType)"].observed == pytest.approx(np.mean([classification, *differences.values()]))
    bounds = np.quantile(np.mean([drawn[name] for name in of_type], axis=0), [0.025, 0.975])
    assert found.types["Classification"].interval == pytest.approx(tuple(bounds), abs=1e-9)
    assert found.types["STS"].interval == pytest.approx(found.tasks["STSBenchmark"].interval)
    assert found.types["Clustering"] == found.groups["one"] == (pytest.approx(clustering), None)
    halves = [(draw + clustering) / 2 for draw in drawn["STSBenchmark"]]
    assert found.groups["two"].interval == pytest.approx(tuple(np.quantile(halves, [0.025, 0.975])), abs=1e-9)
    assert found.groups["two"].observed == pytest.approx((differences["STSBenchmark"] + clustering) / 2)


def test_the_draws_of_tasks_are_independent(tmp_path: Path) -> None:
    """So the average over nine tasks of the same examples is three times as sure as one of them."""
    [task], a, b = tasks_and_rows(tmp_path, ["STSBenchmark"])
    copies = [copy(task) for _ in range(9)]
    for number, one in enumerate(copies):
        one.metadata = task.metadata.model_copy(update={"name": f"copy{number}"})
    rows = [
        Row(*({f"copy{number}": of["STSBenchmark"] for number in range(9)} for of in (row.scores, row.examples)))
        for row in (a, b)
    ]
    found = significance(copies, *rows)
    assert found.average.interval and found.tasks["copy0"].interval
    widths = [of.interval.high - of.interval.low for of in (found.average, found.tasks["copy0"])]
    assert widths[0] == pytest.approx(widths[1] / 3, rel=0.15)


def test_a_task_without_examples_only_shifts_the_average(tmp_path: Path) -> None:
    tasks, a, b = tasks_and_rows(tmp_path, ["STSBenchmark", "XQuADRetrieval"])
    one = [Row(row.scores, {"STSBenchmark": row.examples["STSBenchmark"]}) for row in (a, b)]
    found = significance(tasks, *one)
    bounds = found.tasks["STSBenchmark"].interval
    assert found.constant == ["XQuADRetrieval"] and bounds is not None
    constant = found.tasks["XQuADRetrieval"].observed
    assert found.average.interval == pytest.approx([(bound + constant) / 2 for bound in bounds])
    none = significance(tasks, Row(a.scores, {}), Row(b.scores, {}))
    assert none.constant == ["STSBenchmark", "XQuADRetrieval"]
    assert none.average == (pytest.approx(found.average.observed), None)


def test_rows_of_a_run(tmp_path: Path) -> None:
    write_sts(tmp_path)
    graph = StageGraph(tmp_path / "run")
    scorer = Scorer(MtebCallback(["STSBenchmark"], data_root=str(tmp_path)), torch.device("cpu"))
    rows = []
    for seed in (0, 3):
        tiny_encoder(seed).save(tmp_path / f"model{seed}")
        stage = Score(f"model{seed}", Model(f"model{seed}", path=str(tmp_path / f"model{seed}")), scorer)
        rows.append(read_row(graph.run(stage), graph.score_cache))
    tasks, *expected = tasks_and_rows(tmp_path, ["STSBenchmark"])
    assert significance(tasks, *rows) == significance(tasks, *expected)
    assert significance(tasks, rows[0], rows[0]).average == (0.0, (0.0, 0.0))


def test_the_interval_of_one_task_is_that_of_its_pairs(tmp_path: Path) -> None:
    [task], a, b = tasks_and_rows(tmp_path, ["STSBenchmark"])
    first, second = (row.examples["STSBenchmark"] for row in (a, b))
    draws = 100 * spearman_differences(GOLD, first["default/test"], second["default/test"])
    assert np.array_equal(resampled_differences(task, first, second), draws)
    assert resampled_differences(task, first, {}) is None


def test_a_text_has_the_share_of_the_classifiers_that_are_right(tmp_path: Path) -> None:
    [task], a, _ = tasks_and_rows(tmp_path, ["Banking77Classification"])
    evaluate_task(MtebEncoder(tiny_encoder()), task, prediction_folder=tmp_path / "predictions")
    [file] = (tmp_path / "predictions").iterdir()
    classifiers = json.loads(file.read_text())["default"]["test"]
    expected = [
        sum(predicted[i] == row["label"] for predicted in classifiers) / len(classifiers)
        for i, row in enumerate(LABELLED)
    ]
    values = a.examples["Banking77Classification"]["default/test"]
    assert values == pytest.approx(expected) and len(set(values)) > 1
    assert 100 * np.mean(values) == pytest.approx(a.scores["Banking77Classification"], abs=1e-3)


def test_values_that_do_not_make_up_the_score_are_not_used(tmp_path: Path) -> None:
    write_classification(tmp_path)
    [task] = load_tasks(["Banking77Classification"], str(tmp_path))
    task = copy(task)
    ours = task._calculate_scores
    task._calculate_scores = lambda true, found: ours(true, found) | {"accuracy": 0.9}  # type: ignore[method-assign]
    _, examples = evaluate_cached(MtebEncoder(tiny_encoder()), task, tmp_path / "out")
    assert examples == {"default/test": []}
    assert resampled_differences(task, examples, examples) is None
