"""Every model of a run is loaded as the recipe says: pooling of plain folders, and whether code may run."""

import json
from pathlib import Path

import pytest
import torch

import lightning_app
from callbacks import MtebCallback
from callbacks.mteb.mteb_encoder import MtebEncoder
from callbacks.mteb.task_evaluation import evaluate_tasks
from callbacks.mteb.task_loading import load_tasks
from lightning_app.__main__ import main
from lightning_app.stages.model import Model
from lightning_app.stages.model_loading import ModelLoading
from lightning_app.stages.score import Score, read_scores
from lightning_app.stages.scorer import Scorer
from lightning_app.stages.stage_graph import StageGraph
from modules import TextEncoder, UserError
from tests.conftest import Project
from tests.tiny_encoder import Settings, pooling_of, save_plain, tiny_encoder
from tests.tiny_mirror import write_sts

pytestmark = pytest.mark.usefixtures("own_cache")


def test_only_one_place_loads_models() -> None:
    """Any other would forget what the recipe says."""
    package = Path(lightning_app.__file__).parent
    calls = [path.name for path in package.rglob("*.py") if "TextEncoder.load(" in path.read_text()]
    assert calls == ["model_loading.py"]


def test_a_pooling_is_for_folders_that_do_not_say_their_own(tmp_path: Path) -> None:
    save_plain(tmp_path / "plain")
    tiny_encoder().save(tmp_path / "mean")
    loading = ModelLoading(pooling="cls", base=str(tmp_path / "plain"))
    assert pooling_of(loading.load(str(tmp_path / "plain"))) == "cls"
    assert pooling_of(loading.load(str(tmp_path / "mean"))) == "mean"
    with pytest.raises(UserError, match="pools by mean, not by cls"):
        ModelLoading(pooling="cls", base=str(tmp_path / "mean")).load(str(tmp_path / "mean"))


def test_an_identity_holds_what_changes_the_result(tmp_path: Path) -> None:
    save_plain(tmp_path / "plain")
    tiny_encoder().save(tmp_path / "mean")
    plain, whole = str(tmp_path / "plain"), str(tmp_path / "mean")
    assert ModelLoading().identity(plain) != ModelLoading("cls").identity(plain)
    assert ModelLoading().identity(whole) == ModelLoading("mean", trust_remote_code=True).identity(whole)
    eager = ModelLoading(attn_implementation="eager")
    assert ModelLoading().identity(whole) != eager.identity(whole)
    assert eager.load(whole).backbone.config._attn_implementation == "eager"
    (tmp_path / "mean" / "modeling_own.py").write_text("x = 1\n")
    assert ModelLoading().identity(whole) != ModelLoading(trust_remote_code=True).identity(whole)


def test_a_plain_base_is_scored_as_it_pools(tmp_path: Path) -> None:
    save_plain(tmp_path / "plain")
    write_sts(tmp_path)
    graph, mteb = StageGraph(tmp_path / "run"), MtebCallback(["STSBenchmark"], data_root=str(tmp_path))
    scorer, path = Scorer(mteb, torch.device("cpu")), str(tmp_path / "plain")
    for pooling in ("cls", "mean"):
        base = Model("base", path=path, loading=ModelLoading(pooling, base=path))
        encoder = tiny_encoder(config=Settings(pooling, normalize=False))
        expected = evaluate_tasks(MtebEncoder(encoder), load_tasks(["STSBenchmark"], str(tmp_path)))
        assert read_scores(graph.run(Score("base", base, scorer))) == pytest.approx(expected, abs=1e-4)


def test_all_models_of_a_fit_pool_as_the_plain_base(project: Project) -> None:
    """Experts, what is started from one, statistics, fixed and learned merges around a joint model."""
    save_plain(project.folder / "plain")
    content = project.content()
    content["model"] |= {"base": str(project.folder / "plain"), "pooling": "cls"}
    content["recipes"]["late"] = content["recipes"]["sts"] | {"start": "joint"}
    content["merges"] = {"around": {"start": "joint", "experts": ["late"], "max_steps": 2}}
    content["baselines"] = ["base", "around", "fisher"]
    project.write(content)
    assert main(["fit", "--config", str(project.recipe)]) == 0
    saved = [folder / "model" for name, folder in project.stages().items() if not name.startswith("scores")]
    assert {pooling_of(TextEncoder.load(folder)) for folder in saved} == {"cls"} and len(saved) == 7
    report = (project.run_dir / "report.md").read_text()
    [header] = [line for line in report.splitlines() if line.startswith("| model") and "objective" in line]
    assert all(f" a/{name} " in header for name in ("qa", "sts", "late")), "positions of different experts in one table"
    found = json.loads((project.stages()["position-around"] / "position.json").read_text())
    assert 0 < found["objective"] < 1.5, "relative to the plain base, which is read as the recipe says"
