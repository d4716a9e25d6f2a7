"""The main job, whole, on a tiny model: what a user types and what is there afterwards."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datamodules import load_tasks
from lightning_app.__main__ import main
from lightning_app.recipe.named_merges import MERGES
from modules import TextEncoder
from tests.conftest import Project
from tests.model_cards import cells, read_card
from tests.tiny_mirror import write_sts

TEXTS = ["a red cat", "the blue dog runs", "query : the sky is blue"]


def fit(project: Project, *options: str) -> None:
    assert main(["fit", "--config", str(project.recipe), *options]) == 0


def finished(project: Project) -> dict[str, int]:
    """When each stage ended."""
    return {file.parent.name: file.stat().st_mtime_ns for file in (project.run_dir / "stages").glob("*/stage.json")}


def test_fit_makes_everything(fitted: Project, finished_run: tuple[Path, str]) -> None:
    project = fitted
    report = (project.run_dir / "report.md").read_text()
    assert report in finished_run[1]
    rows = ("base", "qa", "sts", "joint", "average", "slerp", "learned_linear", "self_positioning")
    assert all(f"| {row} " in report for row in rows)
    assert "| qa       |  150 |" in report, "which rows of each data set go where"
    card = read_card(project.run_dir / "model")
    assert cells(card, "qa")[0][:2] == ["qa", "trained from `base` on qa"] and cells(card, "qa")[2][:2] == ["qa", "150"]
    merge = json.loads((project.run_dir / "model" / "merge.json").read_text())
    assert merge["experts"]["qa"]["trained_on"] == ["qa"] and merge["base"]["path"].endswith("/base")
    assert "run_dir" not in card.text and "source: qa.jsonl" in card.text and "max_steps: 6" in card.text
    assert "It was scored on no task: this is said of the probe-validation rows alone" in report
    assert " minus " not in report and (project.run_dir / "report.html").is_file()
    folder = project.stages()["position-self_positioning"]
    ours = TextEncoder.load(folder / "model").encode(TEXTS)
    theirs = torch.tensor(SentenceTransformer(str(folder / "model"), device="cpu").encode(TEXTS))
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - TextEncoder.load(project.base).encode(TEXTS)).abs().max() > 1e-3
    assert (folder / "last.ckpt").stat().st_size < 1_000_000
    with (folder / "coefficients.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1 + 2 * 4  # the start, and 2 epochs of 4 batches
    events = EventAccumulator(str(project.run_dir / "logs" / "self_positioning")).Reload()
    assert [e.step for e in events.Scalars("scale")] == list(range(9))
    assert {"coefficient/qa", "coefficient/sts", "val/qa/recall@1", "val/sts/spearman"} <= set(events.Tags()["scalars"])


def test_every_baseline_is_a_row(project: Project) -> None:
    fit(project, f"--baselines={json.dumps([*MERGES])}", "--mteb.tasks=[]", "--position.max_epochs=1")
    stages = project.stages()
    fixed = [name for name, merge in MERGES.items() if merge.weighting != "learned"]
    learned = [name for name, merge in MERGES.items() if merge.weighting == "learned"]
    assert all((stages[f"merge-{name}"] / "model" / "model.safetensors").is_file() for name in fixed)
    assert all((stages[f"position-{name}"] / "model" / "model.safetensors").is_file() for name in learned)
    statistics = stages["model-qa"] / "model" / "statistics"
    assert {file.name for file in statistics.iterdir()} == {"fisher.safetensors", "input_gram.safetensors"}
    layers = json.loads((stages["position-learned_layerwise"] / "position.json").read_text())
    assert {"c/qa/embeddings", "c/qa/layer 0", "c/qa/layer 1"} <= set(layers["position"])
    assert layers["history"][-1]["forward"] == layers["passes"]["forward"] == 4


def test_a_fixed_merge_keeps_the_best_that_it_tried(project: Project) -> None:
    names = ["size_weighted", "inverse_norm", "lm_cocktail", "greedy_soup", "joint_pulled_back", "base"]
    fit(project, f"--baselines={json.dumps(names)}", "--mteb.tasks=[]")
    found = {
        name: json.loads((folder / "position.json").read_text())
        for name, folder in project.stages().items()
        if name.startswith("merge-")
    }
    sources = {name: str(project.folder / f"{name}.jsonl") for name in ("qa", "sts")}
    split = load_tasks(sources, probe_size=16, validation_size=12)
    rows = {name: len(task.expert) for name, task in split.items()}
    position = found["merge-size_weighted"]["position"]
    assert position["c/qa"] / position["c/sts"] == pytest.approx(rows["qa"] / rows["sts"])
    assert position["c/qa"] + position["c/sts"] == pytest.approx(1)
    assert [tried["scale"] for tried in found["merge-inverse_norm"]["tried"]] == MERGES["inverse_norm"].scales
    tried = found["merge-inverse_norm"]["tried"]
    best = min(tried, key=lambda one: one["objective"])
    position = found["merge-inverse_norm"]["position"]
    assert position["c/qa"] + position["c/sts"] == pytest.approx(best["scale"], abs=1e-6)
    assert len({one["objective"] for one in tried}) == len(tried)
    assert len(found["merge-lm_cocktail"]["tried"]) == 2 * len(MERGES["lm_cocktail"].temperatures)
    assert set(found["merge-greedy_soup"]["position"].values()) <= {0.0, 0.5, 1.0}
    pulled = found["merge-joint_pulled_back"]
    assert pulled["position"]["c/joint"] == pytest.approx(min(pulled["tried"], key=lambda o: o["objective"])["scale"])


def test_the_search_and_the_method_are_keys_of_a_recipe(project: Project) -> None:
    fit(
        project,
        "--baselines=[]",
        "--model.search=modules.Bfgs",
        "--model.method=modules.Ties",
        "--model.method.density=0.5",
        "--model.granularity=2",
        "--model.pull=0.01",
        "--trainer.max_epochs=3",
    )
    (folder,) = [folder for name, folder in project.stages().items() if name.startswith("position")]
    found = json.loads((folder / "position.json").read_text())
    assert {"c/qa/group 0", "c/qa/group 1", "scale/group 1"} <= set(found["position"])
    assert found["passes"]["backward"] == found["passes"]["forward"] >= 4 * 4


def test_a_second_fit_only_makes_what_changed(fitted: Project) -> None:
    project, first = fitted, finished(fitted)
    fit(project)
    assert finished(project) == first
    assert main(["fit", "--config", str(project.run_dir / "config.yaml")]) == 0
    assert finished(project) == first
    fit(project, "--model.mu", "0.5")
    second = finished(project)
    new = {name.rsplit("-", 1)[0] for name in second.keys() - first.keys()}
    assert new == {"position-self_positioning"}, "the other learned merge has no scale that mu could weigh"
    assert {name: second[name] for name in first} == first


def test_one_model_under_two_names_is_trained_once(project: Project) -> None:
    content = project.content()
    joint = {"mix": {"qa": None, "sts": None}, "batch_size": 8, "max_steps": 4}
    project.write(content | {"recipes": content["recipes"] | {"joint": joint}, "baselines": ["joint"]})
    fit(project)
    first = finished(project)
    renamed = {"together": joint, "again": joint}
    project.write(content | {"recipes": content["recipes"] | renamed, "baselines": list(renamed)})
    fit(project)
    assert {name for name in finished(project) if name.startswith("model-")} <= first.keys()


def test_the_same_seed_gives_the_same_result(fitted: Project) -> None:
    project = fitted
    first = load_file(project.stages()["position-self_positioning"] / "model" / "model.safetensors")
    fit(project, "--fresh")
    second = load_file(project.stages()["position-self_positioning"] / "model" / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fast_dev_run_runs_every_stage_once(project: Project) -> None:
    fit(project, "--trainer.fast_dev_run", "true")
    assert len(project.stages()) == 7


def test_an_expert_may_start_from_another_recipe(project: Project) -> None:
    content = project.content()
    content["recipes"]["joint"] = {"mix": {"qa": 1.0, "sts": 3.0}, "batch_size": 8, "max_steps": 4}
    content["recipes"]["sts"]["start"] = "joint"
    project.write(content | {"baselines": []})
    fit(project)
    assert {"model-joint", "model-qa", "model-sts", "position-self_positioning"} == set(project.stages())


def test_a_recipe_without_experts_trains_its_recipes(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    content = project.content()
    del content["model"]["experts"], content["recipes"]["sts"]
    project.write(content | {"baselines": []})
    fit(project)
    model = project.stages()["model-qa"] / "model"
    assert (project.run_dir / "model").resolve() == model.resolve()
    assert SentenceTransformer(str(model), device="cpu").encode("a cat").shape == (16,)
    assert "trained from `base`" in read_card(model).text and not (model / "merge.json").exists()
    assert main(["validate", "--config", str(project.recipe)]) == 0
    assert "val/qa/recall@1" in capsys.readouterr().out


def test_every_training_has_the_loggers_and_callbacks_of_the_recipe(project: Project) -> None:
    """Made anew for each, under its name; a callback that follows scores is where scores are taken, and only there."""
    content = project.content()
    write_sts(project.folder)
    csv_logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(project.run_dir)}}
    stop = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 9}}
    follow = {"class_path": "EarlyStopping", "init_args": {"monitor": "mteb/average", "mode": "max"}}
    content["trainer"] |= {"logger": [csv_logger], "callbacks": [stop, follow]}
    content["mteb"] = {
        "tasks": ["STSBenchmark"],
        "data_root": str(project.folder),
        "every_n_epochs": 1,
        "at_start": True,
    }
    project.write(content | {"baselines": ["learned_linear"]})
    fit(project)
    logs = {path.parent.name: path.read_text() for path in project.run_dir.glob("logs/*/metrics.csv")}
    assert set(logs) == {"qa", "sts", "learned_linear", "self_positioning"}
    assert all("val/loss" in text for text in logs.values())
    contents = {
        name: json.loads((folder / "stage.json").read_text())["content"]["trainer"]["counted"]["callbacks"]
        for name, folder in project.stages().items()
        if not name.startswith("scores")
    }
    assert {name: len(callbacks) for name, callbacks in contents.items()} == {
        "model-qa": 1, "model-sts": 1, "position-learned_linear": 1, "position-self_positioning": 2,
    }  # fmt: skip


def test_the_report_says_what_is_shared_with_and_fitted_to_test_tasks(project: Project) -> None:
    rows = [json.loads(line) for line in (project.folder / "sts.jsonl").read_text().splitlines()]
    write_sts(project.folder, pairs=[row | {"sentence1": row["sentence1"].upper() + "!"} for row in rows])
    content = project.content()
    stop = {"class_path": "EarlyStopping", "init_args": {"monitor": "mteb/average", "mode": "max"}}
    trainer = content["trainer"] | {"callbacks": [stop]}
    mteb = {"tasks": ["STSBenchmark"], "data_root": str(project.folder), "every_n_epochs": 1, "at_start": True}
    project.write(content | {"baselines": [], "trainer": trainer, "mteb": mteb, "position": {"max_epochs": 1}})
    fit(project)
    report = (project.run_dir / "report.md").read_text()
    assert "- EarlyStopping follows mteb/average, by the recipe's choice" in report
    [line] = [line for line in report.splitlines() if line.startswith("| STSBenchmark")]
    texts, exact, normalised = (int(cell) for cell in line.strip("|").split("|")[1:])
    assert texts > 150 and 50 < exact < normalised < texts, "probe-validation rows are not trained on"


def test_rows_that_are_texts_of_the_tasks_are_left_out_and_counted(project: Project) -> None:
    rows = [json.loads(line) for line in (project.folder / "sts.jsonl").read_text().splitlines()][:20]
    write_sts(project.folder, pairs=[row | {"sentence1": row["sentence1"].upper() + "!"} for row in rows])
    content = project.content()
    mteb = {"tasks": ["STSBenchmark"], "data_root": str(project.folder)}
    short = {"position": {"max_epochs": 1}, "baselines": []}
    project.write(content | {"mteb": mteb, "decontaminate": True} | short)
    fit(project)
    lines = (project.run_dir / "report.md").read_text().splitlines()
    [row] = [line for line in lines if line.startswith("| sts ") and "STSBenchmark" in line]
    assert [cell.strip() for cell in row.strip("|").split("|")][:2] == ["sts", "100"] and "20" in row
    [shared] = [line for line in lines if line.startswith("| STSBenchmark")]
    assert [cell.strip() for cell in shared.strip("|").split("|")][2:] == ["0", "0"]
    card = read_card(project.run_dir / "model")
    [result] = card.data.eval_results
    [entry, _] = yaml.safe_load((project.run_dir / "model/.eval_results/STSBenchmark.yaml").read_text())
    assert 100 * result.metric_value == pytest.approx(entry["value"]) and "mteb" in card.data.tags
    assert cells(card, "self_positioning")[0][1].strip("*") == f"{entry['value']:.2f}"


def test_the_other_verbs(fitted: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project = fitted
    config = ["--config", str(project.recipe)]
    capsys.readouterr()
    assert main(["validate", *config]) == 0
    assert "val/loss" in capsys.readouterr().out
    texts, out = project.folder / "texts.txt", project.folder / "out.safetensors"
    texts.write_text("\n".join(TEXTS) + "\n")
    merged = project.stages()["position-self_positioning"] / "model"
    assert (project.run_dir / "model").resolve() == merged.resolve() and (project.run_dir / "model").is_symlink()
    expected = TextEncoder.load(merged).encode(TEXTS)
    for where in ([], ["--folder", str(merged)], ["--ckpt_path", str(merged.parent / "last.ckpt")]):
        assert main(["predict", *config, *where, "--texts", str(texts), "--out", str(out)]) == 0
        assert torch.allclose(load_file(out)["embeddings"], expected, atol=1e-6)
    for path in (project.folder / "qa.jsonl", project.stages()["model-qa"] / "stage.json"):
        path.unlink()  # what the model was made of is not needed any more
    assert main(["predict", *config, "--texts", str(texts), "--out", str(out)]) == 0
    assert torch.allclose(load_file(out)["embeddings"], expected, atol=1e-6)
    assert main(["test", *config, "--mteb.tasks", "[PythonDocsSTS]"]) == 0
    assert "PythonDocsSTS" in capsys.readouterr().out


def test_a_search_on_the_whole_probe_takes_what_it_can_use(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """Of what is right for experts; for the section's own position, and for another."""
    content = project.content()
    content["model"]["search"] = {"class_path": "modules.CmaEs"}
    content["merges"] = {"other": {"search": {"class_path": "modules.Bfgs"}}}
    content["trainer"] |= {
        "gradient_clip_val": 1.0, "gradient_clip_algorithm": "norm", "accumulate_grad_batches": 2,
        "limit_train_batches": 0.5, "max_time": "00:01:00:00", "detect_anomaly": True,
    }  # fmt: skip
    for recipe in content["recipes"].values():
        recipe["max_steps"] = 1
    project.write(content | {"baselines": ["other"], "position": {"max_epochs": 1}})
    fit(project)
    said = [line for line in caplog.messages if "for experts only" in line]
    keys = "accumulate_grad_batches, trainer.gradient_clip_val, trainer.gradient_clip_algorithm, trainer.limit_train_b"
    assert [keys in line for line in said] == [True, True]
    assert "CmaEs takes whole passes" in said[0] and "Bfgs takes whole passes" in said[1]


def test_a_merge_of_the_main_position_finds_it_trained_with_the_callbacks(project: Project) -> None:
    content = project.content()
    stop = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 5}}
    content["trainer"] |= {"callbacks": [stop]}
    content["merges"] = {"half": {"experts": ["self_positioning"], "weighting": "equal", "scales": [0.5]}}
    project.write(content | {"baselines": ["half"]})
    fit(project)
    assert len(list(project.run_dir.glob("stages/position-self_positioning-*"))) == 1
