"""A user's mistake: one clear line, exit status 2, nothing half-written."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lightning_app.__main__ import main
from tests.conftest import Project, write_rows
from tests.tiny_checkpoints import read_weights, write_weights
from tests.tiny_encoder import Settings, loaded, tiny_encoder, tiny_tokenizer


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fitt"], "unknown verb 'fitt'; did you mean fit?"),
        (["fit", "--config", "quickstrat"], "recipe 'quickstrat' is neither a file nor .* did you mean quickstart"),
        (["fit", "--config", "quickstart", "--config", "quik"], "recipe 'quik' is neither .* did you mean quick"),
        (["fit", "--model.muu", "3"], "unknown key 'model.muu'; did you mean 'model.mu'?"),
        (
            ["fit", "--trainer.acelerator", "cpu"],
            "unknown key 'trainer.acelerator'; did you mean 'trainer.accelerator'",
        ),
        (["fit", "--trainer.devices", "x"], "trainer: Lightning refuses its keys .*devices"),
        (["fit", "--trainer.strategy", "ddpp"], "trainer: Lightning refuses its keys .*ddpp"),
        (["fit", "--trainer.accelerator", "tpuu"], "trainer: Lightning refuses its keys .*tpuu"),
        (["fit", "--model.mu", "abc"], "model.mu.*float.*abc"),
        (["fit", "--model.experts", "{x: {recip: y}}"], "model.experts: unknown key 'recip'; did you mean 'recipe'?"),
        (["fit", "--mteb.tasks", "[STSBenchmrk]"], "no MTEB task STSBenchmrk; did you mean STSBenchmark"),
    ],
)
def test_the_command_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)  # a run of the quickstart may hold its folder here
    line = error_of(capsys, *arguments)
    assert re.search(message, line), line


def changed(project: Project, path: str, value: Any) -> list[str]:
    content: Any = project.content() | {"baselines": ["base"]}
    *parents, last = path.split(".")
    section = content
    for parent in parents:
        section = section.setdefault(parent, {})
    section[last] = value
    project.write(content)
    return ["fit", "--config", str(project.recipe)]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.base", "no/such-model", "model 'no/such-model' not found: no such directory, not in the Hugging Face"),
        ("model.experts", {"x": {"recipe": "y"}}, "model.experts.x.recipe: there is no recipe 'y' (qa, sts are there)"),
        ("model.experts", {"x": {}}, "model.experts.x: give either a recipe or a path"),
        (
            "model.experts",
            {"x": {"recip": "qa"}},
            "recipe.yaml:7: model.experts: unknown key 'recip'; did you mean 'recipe'?",
        ),
        (
            "model.experts",
            {"x": "qa"},
            "model.experts.x: 'qa' is no folder; for the recipe of that name write {recipe: qa}",
        ),
        (
            "model.experts",
            {"x": "no/such"},
            "probe.tasks is needed: expert 'x' is a folder, which has no rows to probe with",
        ),
        (
            "model.method",
            {"class_path": "modules.Slerp", "init_args": {"order": ["qa"]}},
            "does not name each of the experts",
        ),
        ("baselines", ["bse"], "baselines: 'bse' is unknown; known are base, experts, joint"),
        ("recipes.qa.start", "sts2", "model 'sts2' not found: no such directory"),
        ("recipes.qa.start", "qa", "models are made of each other in a circle: qa -> qa"),
        ("recipes.qa.data", [], "recipes.qa: give either data or mix"),
        ("recipes.qa.part", [3, 2], "recipes.qa.part is [3, 2]; [2, 3] is the second of three parts"),
        ("recipes.qa.max_steps", -1, "recipes.qa.max_steps is -1; give a number of steps, 1 or more"),
        ("recipes.qa.validate_every", 0, "recipes.qa.validate_every is 0; give a number of steps, 1 or more"),
        ("recipes.qa.seed", -1, "recipes.qa.seed is -1; it is 0 or above"),
        ("recipes.qa.lrr", 1.0, "lrr"),
        ("recipes.qa.batch_size", 500, "lower batch_size"),
        ("recipes.qa.loss", {"name": "cosent"}, "loss 'cosent' does not fit pairs rows"),
        ("probe.batch_size", 1, "batch_size is 1"),
        ("probe.batch_size", 30, "the probe of qa has 16 rows, less than a batch of 30"),
    ],
)
def test_a_recipe(project: Project, capsys: pytest.CaptureFixture[str], path: str, value: Any, message: str) -> None:
    line = error_of(capsys, *changed(project, path, value))
    assert message in line
    assert not list(project.folder.glob("run/stages/*/stage.json"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"anchor": "a cat"}\n', "found columns anchor; needs anchor, positive"),
        ('{"anchor": "a", "positive": "b"}\n{"anchor": \n', "qa.jsonl:2"),
        ('{"anchor": "a", "positive": "b"}\n{"anchor": "a", "positive": 3}\n', "qa.jsonl:2"),
        ("", "qa.jsonl"),
    ],
)
def test_a_data_file(project: Project, capsys: pytest.CaptureFixture[str], rows: str, message: str) -> None:
    (project.folder / "qa.jsonl").write_text(rows)
    assert message in error_of(capsys, "fit", "--config", str(project.recipe))


def expert_with(project: Project, **change: Any) -> list[str]:
    write_rows(project.folder / "probe.jsonl", [{"anchor": f"a cat {i}", "positive": f"dog {i}"} for i in range(90)])
    content = project.content()
    content["model"]["experts"] = {"bad": {"path": str(project.folder / "bad")}}
    content["probe"] |= {"tasks": [{"source": str(project.folder / "probe.jsonl")}], "size": 16, "validation_size": 8}
    project.write(content | {"recipes": {}, "baselines": []})
    return ["fit", "--config", str(project.recipe)]


def test_an_expert_with_nan_weights(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_encoder(seed=1).save(project.folder / "bad")
    weights = read_weights(project.folder / "bad")
    weights["embeddings.word_embeddings.weight"][0, 0] = float("nan")
    write_weights(project.folder / "bad", weights)
    line = error_of(capsys, *expert_with(project))
    assert "embeddings.word_embeddings.weight has NaN or infinite entries; this model is broken, leave it out" in line


def test_an_expert_that_pools_otherwise(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_encoder(seed=1, config=Settings(pooling="cls", max_length=32)).save(project.folder / "bad")
    assert "expert 'bad'" in (line := error_of(capsys, *expert_with(project)))
    assert "has pooling ['cls'], the base ['mean']" in line


def test_an_expert_of_another_shape(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tiny_encoder(seed=1).backbone
    bad.resize_token_embeddings(30)
    loaded(bad, tiny_tokenizer(), Settings(max_length=32)).save(project.folder / "bad")
    line = error_of(capsys, *expert_with(project))
    assert "has other shapes than the base (1): embeddings.word_embeddings.weight [30, 16] for [18, 16]" in line


def test_an_expert_that_is_the_base(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_encoder().save(project.folder / "bad")
    assert "every expert equals the base" in error_of(capsys, *expert_with(project))


def test_a_model_with_an_unknown_module(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    modules = json.loads((project.base / "modules.json").read_text())
    unknown = {"idx": 3, "name": "3", "path": "3_Gone", "type": "sentence_transformers.models.Gone"}
    (project.base / "modules.json").write_text(json.dumps([*modules, unknown]))
    line = error_of(capsys, "fit", "--config", str(project.recipe))
    assert "base cannot be loaded: " in line and "Gone" in line


def test_verbs_before_fit(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(project.recipe)]
    assert "'qa' is not trained yet" in error_of(capsys, "validate", *config)
    assert "predict needs --texts" in error_of(capsys, "predict", *config, "--folder", str(project.base))
    assert "mteb.tasks is empty" in error_of(capsys, "test", *config, "--folder", str(project.base))
    texts = project.folder / "texts.txt"
    texts.write_text("a cat\n")
    predict = ["predict", *config, "--texts", str(texts), "--out", str(project.folder / "out.safetensors")]
    assert re.search(r"there is no model .*/run/model: run fit first", error_of(capsys, *predict))
