"""MTEB results for the hub, against what mteb itself would send."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from callbacks.mteb.hub_results import hub_results
from callbacks.mteb.mteb_encoder import MtebEncoder
from callbacks.mteb.result_cache import evaluate_cached, read_result
from callbacks.mteb.task_loading import load_tasks
from callbacks.mteb.task_selection import TaskSelection
from tests.tiny_encoder import tiny_encoder
from tests.tiny_mirror import write_multilingual, write_sts

pytestmark = pytest.mark.usefixtures("own_cache")

NAMES = ["STSBenchmark", "AmazonCounterfactualClassification"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_results_are_those_that_mteb_sends(tmp_path: Path) -> None:
    """A whole task, and one of which the mirror has two of four languages, so that there is no score of all."""
    write_sts(tmp_path)
    write_multilingual(tmp_path)
    tasks = load_tasks(NAMES, str(tmp_path))
    encoder = MtebEncoder(tiny_encoder(), "local/x", revision="1")
    results: Any = {}
    for task in tasks:
        evaluate_cached(encoder, task, tmp_path / "out")
        results[task.metadata.name] = read_result(tmp_path / "out", encoder.name, encoder.revision, task)
    found = hub_results(results)
    assert list(found.results) == [entry for name in NAMES for entry in results[name].get_hf_eval_results()]
    assert list(found.files) == [f"{name}.yaml" for name in NAMES]
    for name, content in zip(NAMES, found.files.values(), strict=True):
        expected = yaml.safe_load(results[name]._to_hf_benchmark_result().to_yaml())
        assert yaml.safe_load(content) == expected
        entries = parse_eval_result_entries(yaml.safe_load(content))
        assert ("STSBenchmark" in {entry.task_id for entry in entries}) == (name == "STSBenchmark")


def test_a_part_of_a_task_is_no_score_of_the_task(tmp_path: Path) -> None:
    write_sts(tmp_path)
    [task] = load_tasks(TaskSelection(["STSBenchmark"], max_examples=5), str(tmp_path))
    encoder = MtebEncoder(tiny_encoder(), "local/x", revision="1")
    result, _ = evaluate_cached(encoder, task, tmp_path / "out")
    found = hub_results({task.metadata.name: result})
    assert not found.files and found.results[0].dataset_name == "STSBenchmark-capped-5 (default)"
