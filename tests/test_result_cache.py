"""Results and examples in files: taken from there, for what a task asks, and the same in every process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from callbacks.mteb.mteb_encoder import MtebEncoder
from callbacks.mteb.result_cache import evaluate_cached, read_example_scores
from callbacks.mteb.task_evaluation import evaluate_tasks, main_score
from callbacks.mteb.task_loading import load_tasks
from callbacks.mteb.task_selection import TaskSelection
from modules.encoding.text_encoder import TextEncoder
from tests.processes import in_two_processes
from tests.tiny_encoder import tiny_encoder
from tests.tiny_mirror import write_classification, write_clustering, write_multilingual, write_sts, write_xquad

pytestmark = pytest.mark.usefixtures("own_cache")

TASKS = ["STSBenchmark", "XQuADRetrieval", "TwentyNewsgroupsClustering", "Banking77Classification"]


def write_tasks(folder: Path) -> None:
    for write in (write_sts, write_xquad, write_clustering, write_classification):
        write(folder)


def contents(folder: Path) -> dict[str, str]:
    """Files below a folder by their path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


class Forbidden(TextEncoder):
    """Has nothing to encode."""

    def encode(self, texts: Any, prompt: str = "", **options: Any) -> torch.Tensor:
        """Fail."""
        raise AssertionError(f"{len(texts)} texts are encoded again")


def forbidden() -> MtebEncoder:
    tiny = tiny_encoder()
    return MtebEncoder(Forbidden(tiny.pipeline, tiny.folder))


def test_what_the_files_have_is_returned_again(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    for task in load_tasks(TASKS, str(tmp_path)):
        result, examples = evaluate_cached(MtebEncoder(tiny_encoder()), task, tmp_path / "out")
        [(name, score)] = evaluate_tasks(MtebEncoder(tiny_encoder()), [task]).items()
        assert main_score(result) == pytest.approx(score, abs=1e-4)
        before = contents(tmp_path / "out")
        again, same = evaluate_cached(forbidden(), task, tmp_path / "out")
        assert (main_score(again), same) == (main_score(result), examples)
        assert contents(tmp_path / "out") == before and not any(name.endswith(".tmp") for name in before)
        assert read_example_scores(tmp_path / "out", "local/model", "unsaved", name) == examples
    assert read_example_scores(tmp_path / "out", "local/model", "unsaved", "STS12") == {}


def test_a_result_without_its_examples_is_made_again(tmp_path: Path) -> None:
    write_sts(tmp_path)
    [task] = load_tasks(["STSBenchmark"], str(tmp_path))
    expected = evaluate_cached(MtebEncoder(tiny_encoder()), task, tmp_path / "out")[1]
    [file] = (tmp_path / "out/examples").rglob("STSBenchmark.json")
    file.unlink()
    assert evaluate_cached(MtebEncoder(tiny_encoder()), task, tmp_path / "out")[1] == expected
    assert json.loads(file.read_text()) == expected


def test_the_result_is_that_of_the_subsets_that_were_asked_for(tmp_path: Path) -> None:
    """Whatever other subsets were scored before; what is missing is scored alone."""
    write_multilingual(tmp_path)
    wanted = {key: TaskSelection(["AmazonCounterfactualClassification"], languages=[key]) for key in ("deu", "eng")}
    tasks = {key: load_tasks(selection, str(tmp_path))[0] for key, selection in wanted.items()}
    fresh = {key: evaluate_tasks(MtebEncoder(tiny_encoder()), [task]) for key, task in tasks.items()}
    for key in ("deu", "eng", "deu"):
        result, examples = evaluate_cached(MtebEncoder(tiny_encoder()), tasks[key], tmp_path / "out")
        assert list(examples) == [f"{key[:2]}/test"]
        assert [score["hf_subset"] for score in result.scores["test"]] == [key[:2]]
        assert {result.task_name: main_score(result)} == pytest.approx(fresh[key], abs=1e-4)
    [file] = (tmp_path / "out/results").rglob("AmazonCounterfactualClassification.json")
    assert {score["hf_subset"] for score in json.loads(file.read_text())["scores"]["test"]} == {"de", "en"}


def test_two_processes_return_the_same_and_one_writes(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    in_two_processes(_one_process, 2, str(tmp_path))
    first, second = (torch.load(tmp_path / f"found{rank}.pt", weights_only=False) for rank in range(2))
    assert first == second
    tasks = load_tasks(TASKS, str(tmp_path))
    alone = [evaluate_cached(MtebEncoder(tiny_encoder()), task, tmp_path / "alone") for task in tasks]
    for name in ("new", "kept", "nothing to encode"):
        for (scores, examples), (result, expected) in zip(first[name], alone, strict=True):
            assert scores == pytest.approx(main_score(result), abs=1e-3)
            assert examples.keys() == expected.keys()
            for part, values in expected.items():
                assert examples[part] == pytest.approx(values, abs=1e-5)
    assert not (tmp_path / "out1").exists() and not (tmp_path / "more1").exists()
    assert contents(tmp_path / "out0").keys() == contents(tmp_path / "alone").keys()
    assert contents(tmp_path / "more0").keys() == contents(tmp_path / "alone").keys()


def _one_process(rank: int, world_size: int, folder: str) -> None:
    """Each process has folders of its own, as on machines that share no disk."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    tasks = load_tasks(TASKS, folder)
    encoder = MtebEncoder(tiny_encoder())
    runs = {"new": (encoder, "out"), "kept": (forbidden(), "out"), "nothing to encode": (encoder, "more")}
    found = {}
    for name, (model, out) in runs.items():
        results = [evaluate_cached(model, task, Path(folder) / f"{out}{rank}") for task in tasks]
        found[name] = [(main_score(result), examples) for result, examples in results]
    torch.save(found, Path(folder) / f"found{rank}.pt")
    dist.destroy_process_group()
