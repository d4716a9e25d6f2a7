"""``python -m lightning_app evaluate`` as a user meets it."""

import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from scipy.stats import spearmanr

from lightning_app.__main__ import main
from lightning_app.verbs.evaluate import read_prompts
from modules.encoding.text_encoder import TextEncoder
from modules.errors import UserError
from tests.conftest import write_rows
from tests.tiny_encoder import save_plain, tiny_encoder
from tests.tiny_mirror import PAIRS, QUERIES, SENTENCES, write_classification, write_sts, write_xquad


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the verb on tiny tasks and returns its exit status."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for write in (write_sts, write_xquad, write_classification):
        write(tmp_path)
    tiny_encoder(0).save(tmp_path / "a")
    tiny_encoder(3).save(tmp_path / "b")
    tasks = ["STSBenchmark", "XQuADRetrieval", "Banking77Classification"]
    fixed = ["--data_root", str(tmp_path), "--out", str(tmp_path / "out"), "--tasks", *tasks]
    return lambda *arguments: main(["evaluate", *fixed, *map(str, arguments)])


def lines_of(output: str, first: str = "task") -> dict[str, list[str]]:
    """The rows by their first cell of the first table, or of that of the means."""
    table = output[output.index(f"| {first}") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_scores_a_model_and_takes_what_is_done_from_the_results(
    evaluate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = [{"anchor": SENTENCES[0].upper() + "!", "positive": SENTENCES[1]}, {"anchor": "x", "positive": "y"}]
    write_rows(tmp_path / "train.jsonl", training)
    assert evaluate("--model", tmp_path / "a", "--training_data", tmp_path / "train.jsonl") == 0
    printed = capsys.readouterr().out
    rows = lines_of(printed)
    cosines = torch.cosine_similarity(
        *(tiny_encoder().encode([p[k] for p in PAIRS]) for k in ("sentence1", "sentence2"))
    )
    expected = 100 * spearmanr(cosines, [p["score"] for p in PAIRS])[0]
    assert rows["STSBenchmark"][:2] == ["STS", "cosine_spearman"]
    means = lines_of(printed, "mean")
    assert means["STS"] == ["1 task", f"{expected:.2f}"]
    average = sum(float(means[kind][1]) for kind in ("STS", "Retrieval", "Classification")) / 3
    assert float(means["Mean (Task)"][1]) == pytest.approx(average, abs=0.02)
    assert means["Mean (TaskType)"] == ["3 types", means["Mean (Task)"][1]]
    assert "| STSBenchmark            |     8 |     1 |          2 |" in printed, "what is shared with training rows"

    results = list((tmp_path / "out/results/local__a").glob("*/*Benchmark.json"))
    assert json.loads(results[0].read_text())["scores"]["test"][0]["main_score"] == pytest.approx(expected / 100)
    [other] = (tmp_path / "out/results/local__a").glob("*/XQuADRetrieval.json")
    other.unlink()
    texts: list[str] = []
    encode = TextEncoder.encode
    monkeypatch.setattr(
        TextEncoder, "encode", lambda self, new, *a, **o: texts.extend(new) or encode(self, new, *a, **o)
    )
    assert evaluate("--model", tmp_path / "a") == 0
    assert lines_of(capsys.readouterr().out, "mean") == means
    assert {query["text"] for query in QUERIES} <= set(texts) and not set(texts) & set(SENTENCES[:2])


def test_says_nothing_of_a_class_that_no_text_has(
    evaluate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    test = tmp_path / "mteb/banking77/test.jsonl"
    labelled = [json.loads(line) for line in test.read_text().splitlines()]
    write_rows(test, [row | {"label": labelled[0]["label"]} for row in labelled])
    assert evaluate("--model", tmp_path / "a", "--tasks", "Banking77Classification") == 0
    assert "Banking77Classification" in capsys.readouterr().out
    assert [str(warning.message) for warning in recwarn if "sklearn" in warning.filename] == []


def test_compares_two_models(evaluate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--compare", tmp_path / "a", tmp_path / "b") == 0
    printed = capsys.readouterr().out
    rows, means = lines_of(printed), lines_of(printed, "mean")
    assert len(rows) == 3 + 2 and len(means) == 5 + 2
    for name, (_, a, b, difference, bounds) in [*rows.items(), *means.items()]:
        if name not in ("task", "mean") and not name.startswith("--"):
            assert float(difference) == pytest.approx(float(b) - float(a), abs=0.011)
            low, high = (float(bound) for bound in bounds.split(" to "))
            assert low <= float(difference) <= high
    better = "B" if float(means["Mean (Task)"][3]) > 0 else "A"
    gap, sure = means["Mean (Task)"][3].lstrip("+-"), means["Mean (Task)"][4]
    assert re.search(
        rf"{better} (is better than|and . are level).*{gap}( for {better})? in the mean of 3 tasks", printed
    )
    assert better == "A" or f"(95 % interval {sure})" in printed
    assert evaluate("--compare", tmp_path / "a", tmp_path / "b") == 0
    assert lines_of(capsys.readouterr().out) == rows, "examples are kept beside the results"
    assert evaluate("--compare", tmp_path / "a", tmp_path / "a", "--tasks", "STSBenchmark") == 0
    printed = capsys.readouterr().out
    assert lines_of(printed)["STSBenchmark"][3:] == ["+0.00", "+0.00 to +0.00"]
    assert "| mean" not in printed, "a single task is its own mean"


def test_the_precision_has_results_of_its_own(
    evaluate: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tokenised: list[str],
) -> None:
    assert evaluate("--compare", tmp_path / "a", tmp_path / "b") == 0
    assert len(tokenised) == len(set(tokenised)), "both models share the tokens"
    used: list[str] = []
    encode = TextEncoder.encode
    monkeypatch.setattr(TextEncoder, "encode", lambda *a, **o: used.append(o["precision"]) or encode(*a, **o))
    assert evaluate("--compare", tmp_path / "a", tmp_path / "b", "--precision", "bfloat16") == 0
    assert set(used) == {"bfloat16"}
    assert len(list(tmp_path.glob("out/results/local__a/*"))) == 2 * 3, "a revision a task and precision"
    assert evaluate("--model", tmp_path / "a", "--precision", "float16") == 2
    assert "--precision: invalid choice: 'float16'" in capsys.readouterr().err


def test_the_examples_give_the_score(evaluate: Any, tmp_path: Path) -> None:
    assert evaluate("--model", tmp_path / "a") == 0
    [file] = tmp_path.glob("out/examples/local__a/*/XQuADRetrieval.json")
    queries = json.loads(file.read_text())["en/validation"]
    [result] = tmp_path.glob("out/results/local__a/*/XQuADRetrieval.json")
    score = json.loads(result.read_text())["scores"]["validation"][0]["ndcg_at_10"]
    assert len(queries) == len(QUERIES) and sum(queries) / len(queries) == pytest.approx(score, abs=1e-5)


def test_a_plain_transformers_folder_needs_its_pooling(evaluate: Any, tmp_path: Path, capsys: Any) -> None:
    save_plain(tmp_path / "plain")
    tables = []
    for pooling in ("mean", "cls"):
        assert evaluate("--model", tmp_path / "plain", "--pooling", pooling) == 0
        tables.append(lines_of(capsys.readouterr().out, "mean")["Mean (Task)"][1])
    assert tables[0] != tables[1]


def test_prompts_are_a_file_or_text(tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text('Retrieval-query: "query: "\nSTS: ""\n')
    assert read_prompts(str(file)) == {"Retrieval-query": "query: ", "STS": ""}
    assert read_prompts('{"STS": "same? "}') == {"STS": "same? "}
    for wrong in ("nofile.yaml", "{STS: 3}", "{"):
        with pytest.raises(UserError, match="--prompts"):
            read_prompts(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --model MODEL or --compare A B"),
        (["--model", "x", "--tasks", "STS12"], "--out is missing"),
        (["--model", "x", "--out", "o"], "name the tasks: --tasks, --types or --benchmark"),
        (["--model", "no/such-model", "--tasks", "STS12", "--out", "o"], "model 'no/such-model' not found"),
        (["--model", "x", "--tasks", "STS12", "--out", "{base}/config.json"], "config.json: that is a file; name a"),
        (["--modl", "x"], "unknown key '--modl'; did you mean 'model'?"),
        (["--model", "{base}", "--tasks", "STSBenchmrk", "--out", "o"], "no MTEB task STSBenchmrk; did"),
        (["--model", "{base}", "--tasks", "STS12", "--out", "o", "--device", "cuda:99"], "--device cuda:99: "),
        (["--model", "{base}", "--tasks", "STS12", "--out", "o", "--prompts", "{q: x}"], "prompts: q is no task"),
    ],
)
def test_mistakes(
    arguments: list[str], message: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_app.evaluate_models.load_tasks", _no_data)
    tiny_encoder().save(tmp_path / "base")
    assert main(["evaluate", *(argument.replace("{base}", str(tmp_path / "base")) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("error: ") == 1


def _no_data(selection: Any, data_root: str | None) -> list[Any]:
    """Finds tasks, but reads none."""
    from callbacks.mteb.task_selection import find_tasks

    find_tasks(selection)
    return []
