"""The stage that scores a model."""

from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks import MtebCallback
from lightning_app.evaluate import Scorer, read_scores
from lightning_app.model import Model
from lightning_app.stages import Stage, StageGraph
from modules import TextEncoder
from tests.tiny_encoder import tiny_encoder
from tests.tiny_mirror import write_sts

pytestmark = pytest.mark.usefixtures("own_cache")


def scores_stage(model: Model, graph: StageGraph, data_root: Path, tasks: list[str], **options: Any) -> Stage:
    settings = MtebCallback(tasks, data_root=str(data_root), **options)
    return Scorer(settings, torch.device("cpu")).stage(model, graph)


def test_the_precision_is_that_of_the_recipe_and_part_of_the_key_unless_it_is_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    encode = TextEncoder.encode
    monkeypatch.setattr(TextEncoder, "encode", lambda *a, **o: used.append(o["precision"]) or encode(*a, **o))
    write_sts(tmp_path)
    tiny_encoder().save(tmp_path / "model")
    graph, model = StageGraph(tmp_path / "run"), Model("base", path=str(tmp_path / "model"))
    exact, rounded = (
        scores_stage(model, graph, tmp_path, ["STSBenchmark"], precision=name) for name in ("float32", "bfloat16")
    )
    assert "precision" not in exact.content and rounded.content["precision"] == "bfloat16"
    for stage in (exact, rounded):
        assert read_scores(graph.run(stage)).keys() == {"STSBenchmark"}
    assert set(used[: len(used) // 2]) == {"float32"} and set(used[len(used) // 2 :]) == {"bfloat16"}
