"""``merge --learn``: given models merged at a position that is learned on the user's rows, shown on rows held out."""

import csv
import json
import random
import signal
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from torch import nn
from torch.optim import Optimizer

from lightning_app.__main__ import main
from lightning_app.learn_merge import learn_merge
from lightning_app.report.gain import Gain
from lightning_app.stages.learning_rows import LearningRows
from modules import Bfgs, MergeModule, TextEncoder
from modules.bootstrap import Interval
from modules.checkpoints.identity import weights_identity
from modules.checkpoints.lineage import write_lineage
from modules.errors import Interrupted, UserError
from modules.merging.merge_method import METHODS
from modules.on_disk.merge_files import merge_files
from modules.on_disk.plan import Plan
from tests.conftest import Project, write_rows
from tests.model_cards import read_card
from tests.test_fit import TEXTS
from tests.test_lora import factors, write_adapter
from tests.tiny_encoder import WORDS, tiny_encoder
from tests.tiny_mirror import write_sts

ROWS = ["base", "far", "near", "average", "self_positioning"]


@pytest.fixture
def given(project: Project) -> Project:
    """The project with two experts that come from its base."""
    for seed, (name, size) in enumerate({"far": 0.05, "near": 0.02}.items()):
        encoder = TextEncoder.load(str(project.base))
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in encoder.parameters():
                weight.add_(size * torch.randn_like(weight))
        encoder.save(project.folder / name)
    return project


def files(project: Project) -> list[str]:
    return [str(project.folder / name) for name in ("qa.jsonl", "sts.jsonl")]


def experts(project: Project) -> list[str]:
    return [str(project.folder / name) for name in ("far", "near")]


def arguments(project: Project) -> list[str]:
    base, out = str(project.base), str(project.folder / "merged")
    return ["merge", "--learn", *files(project), "--base", base, "--experts", *experts(project), "--out", out]


def record_of(project: Project) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((project.folder / "merged" / "merge.json").read_text())
    return record


def test_one_command_makes_everything(given: Project, capsys: Any) -> None:
    assert main(arguments(given)) == 0
    printed, record = capsys.readouterr().out, record_of(given)
    card = read_card(given.folder / "merged").text
    assert all(f"| {row} " in printed and f"| {row} " in card for row in ROWS)
    assert "| model            |   loss | qa MRR | sts Spearman |" in printed
    assert "| sts      | graded pairs |  100 |          26 |            6 |       68 |        0 |     |" in printed
    gain = record["learned"]["gain"]
    assert gain in printed and gain in card and "held-out rows" in gain
    assert list(record["learned"]["held_out"]) == ROWS and record["learned"]["held_out"]["base"]["loss"] == 1.0
    assert sorted(path.name for path in given.folder.glob("*merged*")) == ["merged"]
    coefficients = record["coefficients"]["model"]
    merged = load_file(given.folder / "merged" / "model.safetensors")
    base, far, near = (load_file(f / "model.safetensors") for f in (given.base, *map(Path, experts(given))))
    for name, weight in merged.items():
        vectors = [
            c * (expert[name] - base[name]) for c, expert in zip(coefficients.values(), (far, near), strict=True)
        ]
        assert torch.allclose(weight, base[name] + sum(vectors), atol=1e-6)
    assert np.isfinite(SentenceTransformer(str(given.folder / "merged"), device="cpu").encode(TEXTS)).all()


def test_the_coefficients_are_those_of_fit_on_the_same_rows(given: Project) -> None:
    assert main(arguments(given)) == 0
    content = given.content()
    model = {"base": str(given.base), "experts": {name: str(given.folder / name) for name in ("far", "near")}}
    probe = {"tasks": [{"source": file} for file in files(given)], "batch_size": 26}
    recipe = {"run_dir": content["run_dir"], "trainer": content["trainer"]}
    given.write(recipe | {"model": model, "probe": probe, "baselines": [], "recipes": {}})
    assert main(["fit", "--config", str(given.recipe)]) == 0
    position = json.loads((given.stages()["position-self_positioning"] / "position.json").read_text())
    assert len(position["history"]) > 2 and position["passes"]["backward"] > 0
    assert record_of(given)["coefficients"]["model"] == {k: position["position"][f"c/{k}"] for k in ("far", "near")}


LEARNED = [name for name, kind in METHODS.items() if kind.learned and kind.statistics is None]


@pytest.mark.parametrize(("name", "granularity"), [*product(LEARNED, ["model", "layer"]), ("slerp", "tensor")])
def test_the_written_merge_has_the_bits_of_the_learned_one(name: str, granularity: str, given: Project) -> None:
    models = dict(zip(("far", "near"), experts(given), strict=True))
    module = MergeModule(str(given.base), models, METHODS[name](), granularity=granularity)
    torch.manual_seed(0)
    with torch.no_grad():
        module.position.raw_a.uniform_(-0.5, 1.5)
        module.position.raw_scale.uniform_(0.2, 1.0)
    module.save(given.folder / "learned")
    plan = Plan(str(given.base), models, METHODS[name](), granularity=granularity, c=module.coefficients_by_group())
    merge_files(plan, given.folder / "written", say=lambda _: None)
    learned, written = (load_file(given.folder / folder / "model.safetensors") for folder in ("learned", "written"))
    assert all(torch.equal(written[key], weight) for key, weight in learned.items())
    assert any(
        not torch.equal(weight, load_file(given.base / "model.safetensors")[key]) for key, weight in written.items()
    )


def test_the_table_is_of_rows_that_nothing_was_chosen_on(given: Project) -> None:
    file = files(given)[1]
    rows = LearningRows.read([file], seed=0)
    [sts] = rows.tasks
    shown = rows.shown(sts)
    parts = [set(zip(*part.texts, strict=True)) for part in (shown, sts.probe, sts.validation)]
    assert len(parts[0]) == 68 and not parts[0] & parts[1] and not parts[0] & parts[2]
    assert shown.texts[0] != sts.expert.texts[0] and sorted(shown.texts[0]) == sorted(sts.expert.texts[0])
    options = ["--search", "cma_es", "--granularity", "2", "--signed", "--method", "average"]
    assert main([*arguments(given), "--learn", file, *options]) == 0
    encoder = SentenceTransformer(str(given.folder / "near"), device="cpu")
    first, second = (encoder.encode(list(column), normalize_embeddings=True) for column in shown.texts)
    found = record_of(given)["learned"]["held_out"]["near"]["data"]["sts"]["spearman"]
    assert found == pytest.approx(spearmanr((first * second).sum(1), shown.target).statistic, abs=1e-3)


def test_labelled_rows_in_order_of_their_labels(given: Project, capsys: Any) -> None:
    draw = random.Random(0)
    rows = [(" ".join(draw.sample(WORDS, 5)), str(label)) for label in range(2) for _ in range(60)]
    with (given.folder / "topics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    assert main([*arguments(given), "--learn", str(given.folder / "topics.csv"), "--method", "task_arithmetic"]) == 0
    assert "topics accuracy" in capsys.readouterr().out
    accuracy = record_of(given)["learned"]["held_out"]["base"]["data"]["topics"]["recall@1"]
    assert 0.2 < accuracy < 0.8, "batches have texts of both labels"


class StoppedOnce(Bfgs):
    """BFGS that the user stops in its second step, once."""

    steps = 0

    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        optimizer = super().optimizer(parameters)
        optimizer.register_step_post_hook(self._stop)
        return optimizer

    def _stop(self, *_: Any) -> None:
        StoppedOnce.steps += 1
        if StoppedOnce.steps == 2:
            signal.raise_signal(signal.SIGINT)


def test_a_stopped_merge_goes_on_and_has_the_same_bits(given: Project) -> None:
    def learn(out: str, lines: list[str]) -> dict[str, Any]:
        folders = (str(given.base), experts(given), files(given), given.folder / out)
        return dict(learn_merge(*folders, search=StoppedOnce(), say=lines.append).record)

    said: list[str] = []
    with pytest.raises(Interrupted, match="stopped after step 2; the same command goes on from there"):
        learn("stopped", said)
    assert not (given.folder / "stopped").exists() and (given.folder / "stopped.run").is_dir()
    went_on = learn("stopped", said)
    steps = StoppedOnce.steps
    whole = learn("whole", said)
    assert StoppedOnce.steps == 2 * steps, "the steps of the first attempt were not taken again"
    assert went_on == whole
    weights = [(given.folder / out / "model.safetensors").read_bytes() for out in ("stopped", "whole")]
    assert weights[0] == weights[1]
    assert not list(given.folder.glob("*.run"))


def test_without_a_base_it_is_the_one_that_the_experts_record(given: Project, capsys: Any) -> None:
    without = [word for word in arguments(given) if word not in ("--base", str(given.base))]
    assert main(without) == 2
    assert (
        "error: --base is missing, and the experts record no common base (far none, near none)"
        in capsys.readouterr().err
    )
    write_lineage(given.folder / "near", [weights_identity(given.base)], str(given.base))
    middle = given.folder / "middle"
    TextEncoder.load(experts(given)[1]).save(middle)
    write_lineage(middle, [weights_identity(given.base)], str(given.base))
    write_lineage(given.folder / "far", [weights_identity(given.base), weights_identity(middle)], str(middle))
    assert main([*without, "--method", "average"]) == 0
    assert f"base: {given.base}, which all experts record" in capsys.readouterr().out
    assert json.loads((given.folder / "merged" / "lineage.json").read_text())["base"] == str(given.base)


def test_an_adapter_is_an_expert_and_records_its_base(given: Project) -> None:
    adapter = write_adapter(given.folder / "lora", factors(1), base_model_name_or_path=str(given.base))
    write_lineage(given.folder / "near", [weights_identity(given.base)], str(given.base))
    merged = learn_merge(None, [adapter, str(given.folder / "near")], files(given), given.folder / "merged")
    assert list(merged.record["learned"]["held_out"])[1:3] == ["lora", "near"]
    assert merged.record["base"]["path"] == str(given.base)


def test_models_are_scored_before_and_after(given: Project, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    write_sts(given.folder)
    monkeypatch.setenv("MTEB_DATA_ROOT", str(given.folder))
    assert main([*arguments(given), "--tasks", "STSBenchmark"]) == 0
    assert "| model            | STSBenchmark |" in capsys.readouterr().out
    scores = record_of(given)["learned"]["mteb"]
    assert list(scores) == ROWS and all(-100 <= of["STSBenchmark"] <= 100 for of in scores.values())
    [result] = read_card(given.folder / "merged").data.eval_results
    assert 100 * result.metric_value == pytest.approx(scores["self_positioning"]["STSBenchmark"], abs=1e-3)
    assert (given.folder / "merged" / ".eval_results" / "STSBenchmark.yaml").is_file()


REFUSED: dict[str, tuple[list[str], str]] = {
    "columns": (["--learn", "{folder}/odd.jsonl"], "odd.jsonl: found columns question; needs anchor, positive"),
    "rows": (["--learn", "{folder}/few.jsonl"], "few has 20 rows: 4 to learn on"),
    "one row": (["--learn", "{folder}/one.jsonl"], "one"),
    "no file": (["--learn", "{folder}/none.jsonl"], "none.jsonl"),
    "method": (["--method", "model_stock"], "ModelStock fixes its own numbers, which leaves nothing to learn"),
    "statistics": (["--method", "fisher"], "Fisher needs the training rows of 'far'"),
    "order": (["--order", "near"], "the order ['near'] of Slerp does not name each"),
    "coefficients": (["--coefficients", "1", "1"], "--coefficients: that is what --learn finds; leave it out"),
    "search": (["--search", "bgfs"], "argument --search: invalid choice: 'bgfs'"),
    "expert": (["--experts", "{folder}/near", "{folder}/nowhere"], "nowhere' not found"),
    "base": (["--experts", "{folder}/near", "{folder}/other"], "expert 'other' was trained from another base"),
    "out": (["--out", "{folder}/near"], "near exists already; remove it or choose another --out"),
    "task": (["--tasks", "STSBenchmrk"], "no MTEB task STSBenchmrk"),
    "granularity": (["--granularity", "row"], "granularity is 'row'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_one_clear_line(case: str, given: Project, capsys: Any) -> None:
    write_rows(given.folder / "odd.jsonl", [{"question": "a cat"}])
    write_rows(given.folder / "few.jsonl", [{"anchor": f"a cat {i}", "positive": f"cats {i}"} for i in range(20)])
    write_rows(given.folder / "one.jsonl", [{"anchor": "a cat", "positive": "cats"}])
    tiny_encoder(seed=3).save(given.folder / "other")
    write_lineage(given.folder / "other", ["0123456789abcdef"])
    extra, message = REFUSED[case]
    before = sorted(given.folder.iterdir())
    assert main([*arguments(given), *(word.format(folder=given.folder) for word in extra)]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert sorted(given.folder.iterdir()) == before


def test_options_of_learning_need_rows(given: Project, capsys: Any) -> None:
    without = [word for word in arguments(given) if word not in ("--learn", *files(given))]
    assert main([*without, "--method", "slerp", "--signed"]) == 2
    assert "error: --signed: it is for a merge with --learn" in capsys.readouterr().err


def test_another_folder_in_the_way_is_left_alone(given: Project, capsys: Any) -> None:
    (given.folder / "merged.run").mkdir()
    (given.folder / "merged.run" / "notes.txt").write_text("mine")
    assert main(arguments(given)) == 2
    assert "rename it, or choose another --out" in capsys.readouterr().err
    assert (given.folder / "merged.run" / "notes.txt").read_text() == "mine"
    with pytest.raises(UserError, match="scale is what is learned; leave it out"):
        learn_merge(str(given.base), experts(given), files(given), given.folder / "merged", scale=2.0)


def test_the_gain_in_one_sentence() -> None:
    better = Gain("far", 0.9, 0.8, Interval(0.05, 0.15))
    assert str(better).startswith(
        "The merge is better on held-out rows than every single model: loss 0.8000 against 0.9"
    )
    assert str(Gain("far", 0.9, 0.8, Interval(-0.05, 0.25))).startswith("far alone is as good on held-out rows")
    assert str(Gain("far", 0.8, 0.9, Interval(-0.2, -0.05))).startswith("far alone is better on held-out rows")
    assert str(Gain("far", 0.8, 0.9, None)).endswith("a gain of -0.1000 (too few held-out rows for an interval).")
