"""``init``: from two files of one's own to a merged model, and what is said of files and models on the way."""

import csv
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sentence_transformers import SentenceTransformer

from datamodules import DataSource, load_task
from lightning_app.__main__ import main
from lightning_app.first_recipe.data_summary import DataSummary
from lightning_app.first_recipe.given import GivenData, named, read_given
from lightning_app.first_recipe.proposal import Machine, Proposal
from lightning_app.recipe.recipe_parser import parse
from lightning_app.report.pace import Pace
from lightning_app.stages.stage_graph import with_inputs
from lightning_app.verbs.recipe_run import RecipeRun
from modules import UserError
from modules.checkpoints.identity import weights_identity
from modules.checkpoints.lineage import write_lineage
from modules.encoding.prompts import prompts_by_side
from modules.json_files import read_json
from tests.conftest import Project
from tests.test_fit import TEXTS
from tests.test_lora import factors, write_adapter
from tests.tiny_encoder import WORDS, tiny_encoder

CPU = Machine("cpu", 128, 32, 2048, 300, 128, "32-true", "")


def write_csv(path: Path, rows: list[tuple[Any, ...]], delimiter: str = ",", encoding: str = "utf-8") -> str:
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path.name


def texts(count: int) -> list[str]:
    draw = random.Random(count)
    return [" ".join(draw.sample(WORDS, 5)) for _ in range(count)]


def pairs(count: int) -> list[tuple[str, str]]:
    return [(text[: len(text) // 2], text) for text in texts(count)]


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project's folder without its recipe, with two files of one's own."""
    project.recipe.unlink()
    monkeypatch.chdir(project.folder)
    monkeypatch.delenv("MTEB_DATA_ROOT", raising=False)
    write_csv(Path("faq.csv"), [("question", "answer"), *pairs(90)])
    graded = [(a, b, round(5 * random.Random(a + b).random(), 1)) for a, b in zip(texts(80), texts(81), strict=False)]
    write_csv(Path("similarity.csv"), [("sentence1", "sentence2", "score"), *graded, graded[0]])
    return project


def init(*words: str, status: int = 0) -> None:
    assert main(["init", *words]) == status


def recipe(name: str = "recipe.yaml") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(Path(name).read_text())
    return found


def test_from_two_files_to_a_merged_model_in_three_commands(here: Project, capsys: pytest.CaptureFixture[str]) -> None:
    init("faq.csv", "similarity.csv", "--base", "base")
    said = capsys.readouterr().out
    assert re.search(r"^\| faq +\| +pairs \| +90 \| +0 \| +anchor \d+ / ", said, re.MULTILINE)
    assert re.search(r"^\| similarity +\| +graded pairs, scores 0 to 5 \| +81 \| +1 \|", said, re.MULTILINE)
    assert "column 'question' is read as anchor" in said and "MTEB tasks looked at: PythonDocs" in said
    assert re.search(r"fit takes about \d+ s on this machine \(cpu, \d+ cores\): start \d+ s, faq \d+ s, ", said)
    text = Path("recipe.yaml").read_text()
    assert max(map(len, text.splitlines())) <= 120
    assert "# Fit takes about " in text and text.count("#") > 20 and "longer texts are cut: none\n" in text
    assert main(["fit", "--config", "recipe.yaml", "--dry_run"]) == 0
    plan = capsys.readouterr().out
    assert all(f" {name} " in plan for name in ("faq", "similarity", "joint_pulled_back", "self_positioning"))
    assert not Path("runs").exists()
    assert main(["fit", "--config", "recipe.yaml"]) == 0
    embedded = SentenceTransformer("runs/recipe/model", device="cpu").encode(TEXTS, convert_to_tensor=True)
    assert torch.isfinite(embedded).all() and (embedded - here_base(here)).abs().max() > 1e-4


def here_base(project: Project) -> torch.Tensor:
    return SentenceTransformer(str(project.base), device="cpu").encode(TEXTS, convert_to_tensor=True)


def test_models_that_are_there_become_experts(here: Project, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_encoder(seed=1).save("models/full")
    write_lineage("models/full", [weights_identity(str(here.base))], str(here.base))
    write_adapter(Path("models/lora"), factors(seed=1), base_model_name_or_path=str(here.base))
    init("faq.csv", "models/full", "models/lora", "--out", "more.yaml")
    said = " ".join(capsys.readouterr().out.split())
    assert f"base: {here.base} (which all models record): bert, mean pooling, 5,824 parameters, 16 dim" in said
    assert "expert full: bert" in said and f"trained from {here.base}" in said
    assert "expert lora: LoRA adapter of rank 2" in said
    assert f"merge --learn faq.csv --base {here.base} --experts models/full models/lora" in said
    found = recipe("more.yaml")
    assert found["model"]["experts"] == {"faq": {"recipe": "faq"}, "full": "models/full", "lora": "models/lora"}
    assert found["probe"]["tasks"] == [{"source": "faq.csv", "name": "faq"}]
    assert found["baselines"] == ["base", "task_arithmetic"] and found["run_dir"] == "runs/more"
    assert main(["fit", "--config", "more.yaml"]) == 0
    position = read_json(next(Path("runs/more/stages").glob("position-*/position.json")))
    assert {"c/faq", "c/full", "c/lora"} <= position["position"].keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.csv"], "missing.csv'?: no such file"),
        (["empty.csv"], "empty.csv: has no rows"),
        (
            ["odd.csv"],
            "odd.csv: found columns antwort, frage; needs anchor, positive.*which: --columns anchor=COLUMN",
        ),
        (["odd.csv", "--columns", "frage"], "'frage' is not of the form EXPECTED=COLUMN"),
        (["odd.csv", "--columns", "anchor=fragen"], "no file has a column 'fragen'"),
        (["few.csv"], "few has 3 rows, too few .* give 36 or more"),
        (["faq.csv", "--out", "similarity.csv"], "similarity.csv is there already: name another file with --out"),
        (["faq.csv", "--out", "none/recipe.yaml"], "there is no folder none; make it first"),
        (["base"], "no data file is given"),
        (["faq.csv", "base"], "--base is missing, and the experts record no common base"),
        (["faq.csv", "models/none"], "model 'models/none' not found"),
        (["wide.csv"], "wide.csv:2: score is '700'; scores lie in 0 to 1, or give their range"),
        (["hole.csv"], "hole.csv:3: score is '', not a number"),
    ],
)
def test_a_mistake_is_one_line(
    here: Project, words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("empty.csv").touch()
    write_csv(Path("odd.csv"), [("frage", "antwort"), *pairs(60)])
    write_csv(Path("few.csv"), [("anchor", "positive"), *pairs(3)])
    write_csv(Path("wide.csv"), [("sentence1", "sentence2", "score"), ("a cat", "a dog", 700)])
    write_csv(Path("hole.csv"), [("sentence1", "sentence2", "score"), ("a cat", "a dog", 3), ("the", "dog", "")])
    before = sorted(Path().rglob("*"))
    based = words if "base" in words or "models/none" in words else [*words, "--base", "base"]
    init(*based, status=2)
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: .*{message}.*\n", error), error
    assert sorted(Path().rglob("*")) == before


def test_files_of_spreadsheets_are_read(here: Project, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"{a}, {a}", b) for a, b in pairs(60)]
    write_csv(Path("Häufige Fragen (2024).csv"), [("Frage", "Antwort"), *rows], ";", "utf-8-sig")
    columns = ["--columns", "anchor=Frage", "positive=Antwort"]
    init("Häufige Fragen (2024).csv", "similarity.csv", *columns, "--base", "base")
    assert "are separated by ';'" in capsys.readouterr().out
    found = recipe()["recipes"]
    assert found["Häufige_Fragen_2024"]["data"] == [
        {"source": "Häufige Fragen (2024).csv", "columns": {"anchor": "Frage", "positive": "Antwort"}}
    ]
    assert found["similarity"]["data"] == [{"source": "similarity.csv", "score_range": [0, 5]}]
    read = load_task(DataSource("Häufige Fragen (2024).csv", columns={"anchor": "Frage", "positive": "Antwort"}))
    assert list(zip(*read.texts, strict=True)) == rows


def test_one_file_of_labelled_texts(here: Project) -> None:
    write_csv(Path("topics.csv"), [("text", "label"), *((text, text.split()[0]) for text in texts(70))])
    init("topics.csv", "--base", "base")
    found = recipe()
    assert found["baselines"] == ["base", "task_arithmetic"] and found["recipes"]["topics"]["loss"]["name"] == "supcon"
    run = RecipeRun(parse("fit", ["--config", "recipe.yaml", "--quiet"]))
    assert [stage.name for stage in with_inputs(run.models.wanted_stages())] == [
        *("topics", "self_positioning", "task_arithmetic"),
    ]


def test_names_are_keys_of_a_recipe() -> None:
    given = ["a/my data.v2.csv", "b/joint.jsonl", "2024.csv", "c/2024.csv", "average.csv"]
    assert list(named(given)) == ["my_data_v2", "joint-2", "set_2024", "set_2024-2", "average-2"]
    assert list(named(["org/faq-model", "no/folder/model.csv"])) == ["faq_model", "model"]


def test_lengths_and_duplicates_are_those_of_the_obvious_count(here: Project) -> None:
    rows = [*pairs(50), *pairs(50)[:7]]
    write_csv(Path("faq2.csv"), [("anchor", "positive", "negative"), *((a, b, "a cat" * (a > "m")) for a, b in rows)])
    found = DataSummary.of(
        read_given("faq2", "faq2.csv", {}), prompts_by_side({"query": "query : "}, None), tiny_encoder().tokenizer
    )
    assert found.duplicates == 7 and found.kind == "pairs with a negative"
    for name, expected in {"anchor": [f"query : {a}" for a, _ in rows], "positive": [b for _, b in rows]}.items():
        assert sorted(found.lengths[name]) == sorted(2 + len(re.findall(r"\w+|:", text)) for text in expected)
    assert len(found.lengths["negative"]) == sum(a > "m" for a, _ in rows), "a negative that a row lacks is no text"


@pytest.mark.parametrize(("rows", "steps"), [(36, 8), (100, 10), (600, 30), (2000, 56), (20_000, 300)])
def test_steps_follow_the_rows(here: Project, rows: int, steps: int) -> None:
    draw = random.Random(0)
    unique = [(f"{i} {draw.choice(WORDS)}", f"{i} cat") for i in range(rows)]
    write_csv(Path("many.csv"), [("anchor", "positive"), *unique])
    data = DataSummary(read_given("many", "many.csv", {}), {"anchor": np.array([10]), "positive": np.array([50, 60])})
    found = Proposal.of([data], 256, CPU, static=False)
    assert (found.max_length, found.steps) == (64, {"many": steps})
    assert found.probe + found.validation <= rows / 3 and found.probe % found.probe_batch == 0
    assert found.probe >= min(128, rows // 3 * 2 // 3)
    assert Proposal.of([data], 40, CPU, static=True).max_length == 40
    assert found.within({"many": 100}) == found
    assert found.within({"many": 600}).steps == {"many": steps if steps <= 30 else max(30, round(steps / 2))}


def test_rows_that_belong_together_leave_too_few(here: Project) -> None:
    write_csv(Path("one.csv"), [("anchor", "positive"), *(("a cat", f"{i}") for i in range(60))])
    data = DataSummary(read_given("one", "one.csv", {}), {"anchor": np.array([10])})
    with pytest.raises(UserError, match="one"):
        Proposal.of([data], 256, CPU, static=False)


def test_the_time_of_a_stage_is_that_of_its_rows(project: Project) -> None:
    run = RecipeRun(parse("fit", ["--config", str(project.recipe), "--quiet"]))
    pace = Pace(run.models)
    stages = {stage.name: stage for stage in run.models.wanted_stages()}
    longer = parse("fit", ["--config", str(project.recipe), "--quiet", "--recipes.qa.max_steps", "106"])
    qa = {stage.name: stage for stage in RecipeRun(longer).models.wanted_stages()}["qa"]
    per_row = (pace.seconds(qa) - pace.seconds(stages["qa"])) / (100 * 8)
    assert per_row > 0
    assert pace.seconds(stages["joint"]) > 12 * 8 * min(per_row, pace._rows["sts", None])
    assert pace.seconds(stages["self_positioning"]) > 2 * 32 * min(pace._rows.values())
    assert set(pace._rows) == {("qa", None), ("sts", None)}


def test_what_is_given_is_what_is_read(here: Project) -> None:
    given = read_given("similarity", "similarity.csv", {})
    assert isinstance(given, GivenData) and given.source.columns is None
    assert given.source.score_range == (0, 5) and given.rows.target is not None
    with open("similarity.csv") as file:
        scores = [float(row["score"]) / 5 for row in csv.DictReader(file)]
    assert given.rows.target.tolist() == pytest.approx(scores)
