"""How an expert is trained: its optimizer and schedule, the best step, an early end, steps on the way."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lightning_app.__main__ import main
from tests.conftest import Project


def recipe(project: Project, **qa: Any) -> dict[str, Any]:
    content = project.content()
    content["recipes"]["qa"] |= qa
    content["model"]["allow_suspicious"] = True
    return content | {"baselines": [], "position": {"max_steps": 1, "max_epochs": -1}}


def fit(project: Project, content: dict[str, Any]) -> None:
    project.write(content)
    assert main(["fit", "--config", str(project.recipe)]) == 0


def trained(project: Project, name: str = "qa") -> dict[str, torch.Tensor]:
    return load_file(project.stages()[f"model-{name}"] / "model" / "model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_an_optimizer_and_a_schedule_by_class_path(project: Project) -> None:
    """Plain gradient descent with a rate of 0 after the first step moves each weight by the rate times its gradient."""
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"momentum": 0.0}}
    step = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1, "gamma": 0.0}}
    fit(project, recipe(project, optimizer=sgd, schedule=step, lr=0.1, max_steps=1))
    one = trained(project)
    fit(project, recipe(project, optimizer=sgd, schedule=step, lr=0.1, max_steps=3) | {"run_dir": str(project.run_dir)})
    three = {
        name: load_file(folder / "model" / "model.safetensors")
        for name, folder in ((f.name, f) for f in (project.run_dir / "stages").glob("model-qa-*"))
    }
    assert len(three) == 2 and all(equal(one, weights) for weights in three.values())


def test_the_best_step_is_kept_and_training_ends_when_patience_does(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """With a rate that ruins the model the first step is the best."""
    ruinous = {"lr": 3.0, "warmup": 0.0, "max_steps": 12, "validate_every": 1}
    fit(project, recipe(project, **ruinous, keep={"every": 1}, stop_early={"patience": 2}))
    [line] = [line for line in caplog.messages if "kept step" in line]
    best = int(line.split("kept step ")[1].split()[0])
    last = int(line.split(" of ")[1].split(":")[0])
    assert last == best + 2 < 12
    folder = project.stages()["model-qa"]
    assert equal(trained(project), load_file(folder / "kept" / str(best) / "model.safetensors"))
    assert not equal(trained(project), load_file(folder / "kept" / str(last) / "model.safetensors"))
    assert not (folder / "best.safetensors").exists()


def test_a_gentle_expert_harms_other_tasks_no_more_than_is_allowed(
    project: Project, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    options = {"lr": 0.02, "warmup": 0.0, "max_steps": 30, "validate_every": 2}
    fit(project, recipe(project, **options, stop_early={"others_at_most": 1000.0}))
    [free] = [line for line in caplog.messages if "kept step" in line]
    assert " of 30:" in free
    caplog.clear()
    project.write(recipe(project, **options | {"lr": 3.0}, stop_early={"others_at_most": 0.01}))
    assert main(["fit", "--config", str(project.recipe)]) == 2
    assert "the loss of the other tasks was above 0.01 times that at the start: raise" in capsys.readouterr().err


def test_steps_on_the_way_are_models_that_merges_name(project: Project) -> None:
    content = recipe(project, keep={"every": 2})
    content["merges"] = {"soup": {"weighting": "equal", "method": "modules.Average", "experts": ["qa@2", "qa@4", "qa"]}}
    fit(project, content | {"baselines": ["soup", "qa@2"]})
    folder = project.stages()["model-qa"]
    assert sorted(path.name for path in (folder / "kept").iterdir()) == ["2", "4", "6"]
    parts = [load_file(folder / where / "model.safetensors") for where in ("kept/2", "kept/4", "model")]
    soup = load_file(project.stages()["merge-soup"] / "model" / "model.safetensors")
    for name, tensor in soup.items():
        assert torch.allclose(tensor, torch.stack([part[name] for part in parts]).mean(0), atol=1e-6), name
    content = json.loads((project.stages()["merge-soup"] / "stage.json").read_text())["content"]
    assert content["merge"]["experts"][0][1][1] == "kept/2"


@pytest.mark.parametrize(
    ("qa", "message"),
    [
        ({"optimizer": {"class_path": "torch.optim.Sgd"}}, "recipes.qa.optimizer: there is no torch.optim.Sgd"),
        ({"optimizer": {"class_path": "torch.nn.Linear"}}, "recipes.qa.optimizer: torch.nn.Linear is no Optimizer"),
        (
            {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"momentun": 1}}},
            "recipes.qa.optimizer.init_args: torch.optim.SGD has no argument 'momentun'; did you mean momentum",
        ),
        ({"keep_best": True}, "recipes.qa.keep_best: there is one validation, at the end; give validate_every"),
        ({"stop_early": {"patience": 1}}, "recipes.qa.stop_early: there is one validation"),
        ({"keep": {"every": 80}}, "recipes.qa.keep.every is 80; give a step from 1 to 6"),
    ],
)
def test_what_contradicts_itself_is_refused(
    project: Project, capsys: pytest.CaptureFixture[str], qa: dict[str, Any], message: str
) -> None:
    project.write(recipe(project, **qa))
    assert main(["fit", "--config", str(project.recipe)]) == 2
    assert message in capsys.readouterr().err


def test_a_step_that_is_not_kept_is_refused(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    for keep, message in ((None, "recipes.qa.keep keeps no step"), ({"every": 2}, "kept are the steps 2, 4, 6")):
        project.write(recipe(project, keep=keep) | {"baselines": ["qa@3"]})
        assert main(["fit", "--config", str(project.recipe)]) == 2
        assert message in capsys.readouterr().err
