import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from datamodules import DataSource, load_task
from modules.errors import UserError
from modules.task_batch import LossConfig

PAIR = {"anchor": "a", "positive": "b"}
GRADED = {"sentence1": "a", "sentence2": "b", "score": 0.5}


def write(path: Path, *rows: Any) -> str:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def test_pairs_with_negatives_and_an_extra_column(tmp_path: Path) -> None:
    rows = [PAIR | {"negative_2": "n2", "negative_1": "n1", "note": 3}] * 2
    task = load_task(DataSource(write(tmp_path / "x.jsonl", *rows)))
    assert (task.kind, task.texts) == ("pairs", [["a"] * 2, ["b"] * 2, ["n1"] * 2, ["n2"] * 2])
    assert task.loss == LossConfig("infonce", 0.05)


def test_graded_rows_of_a_csv_file(tmp_path: Path) -> None:
    source = write(tmp_path / "x.csv", "sentence1,sentence2,score", '"a, b",c,0.25')
    task = load_task(DataSource(source), LossConfig("auto", 0.1))
    assert (task.kind, task.texts, task.target) == ("graded", [["a, b"], ["c"]], [0.25])
    assert task.loss == LossConfig("cosent", 0.1)


@pytest.mark.parametrize("labels", [["red", "blue", "red"], [7, 3, 7]])
def test_labels_are_numbered(tmp_path: Path, labels: list[Any]) -> None:
    source = write(tmp_path / "x.jsonl.gz", *[{"text": "t", "label": label} for label in labels])
    task = load_task(DataSource(source))
    assert (task.kind, task.target, task.loss.name) == ("labelled", [1, 0, 1], "supcon")


def test_parquet_and_renamed_columns(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"question": ["q"], "answer": ["a"]}), path)
    task = load_task(DataSource(str(path), columns={"anchor": "question", "positive": "answer"}))
    assert task.texts == [["q"], ["a"]]


def test_hub_data_set_in_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTEB_DATA_ROOT", str(tmp_path))
    (tmp_path / "org" / "name").mkdir(parents=True)
    write(tmp_path / "org" / "name" / "train.jsonl", PAIR)
    assert load_task(DataSource("org/name")).texts == [["a"], ["b"]]
    with pytest.raises(UserError, match=r"hub data set org/name \(config None, split dev\)"):
        load_task(DataSource("org/name", split="dev"))


def test_prompts_of_negatives_are_those_of_the_positive(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", PAIR | {"negative": "n"})
    task = load_task(DataSource(source, prompts={"anchor": "query: ", "positive": "passage: "}))
    assert [task.prompted(column, [0]) for column in range(3)] == [["query: a"], ["passage: b"], ["passage: n"]]


def test_limit_and_min_score(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", *[PAIR | {"anchor": f"a{row}", "score": row} for row in range(10)])
    assert len(load_task(DataSource(source, min_score=4))) == 6
    limited = load_task(DataSource(source, limit=3))
    assert len(limited) == 3
    assert limited == load_task(DataSource(source, limit=3))


def test_fingerprint_leaves_out_the_name_only(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", PAIR)
    fingerprint = load_task(DataSource(source)).fingerprint()
    assert load_task(DataSource(source, name="other")).fingerprint() == fingerprint
    assert load_task(DataSource(source, prompts={"anchor": "q"})).fingerprint() != fingerprint
    assert load_task(DataSource(source, loss=LossConfig(temperature=0.1))).fingerprint() != fingerprint


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (DataSource("python_docs", task="retrieval"), "retrieval"),
        (DataSource("data/stsb/train.jsonl.gz"), "stsb"),
        (DataSource("data/pairs.v2.csv"), "pairs.v2"),
        (DataSource("org/name", task="en"), "name-en"),
        (DataSource("org/name", name="mine"), "mine"),
    ],
)
def test_names(source: DataSource, name: str) -> None:
    assert source.name == name


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        ("x.jsonl", [], "x.jsonl: has no rows"),
        ("x.jsonl", [PAIR, "{"], "x.jsonl:2: not valid JSON"),
        ("x.jsonl", [[1]], "x.jsonl:1: holds list, not an object"),
        ("x.jsonl", [{"anchor": "a"}], "x.jsonl: found columns anchor; needs anchor, positive"),
        ("x.jsonl", [PAIR, {"anchor": "a"}], "x.jsonl:2: has no column 'positive'"),
        ("x.jsonl", [PAIR, PAIR | {"anchor": 3}], "x.jsonl:2: holds no string in column 'anchor'"),
        ("x.jsonl", [PAIR | {"anchor": " "}], "x.jsonl:1: is blank in column 'anchor'"),
        ("x.jsonl", [PAIR | {"negative": "n"}, PAIR], "x.jsonl:2: has no column 'negative'"),
        ("x.jsonl", [GRADED, GRADED | {"score": 5}], "x.jsonl:2: score is 5; scores lie in 0 to 1"),
        ("x.jsonl", [GRADED | {"score": "high"}], "x.jsonl:1: score is 'high', not a number"),
        ("x.jsonl", [GRADED | {"score": None}], "x.jsonl:1: score is None; scores lie in 0 to 1"),
        ("x.jsonl", [{"text": "t", "label": 0.5}], "x.jsonl:1: label is 0.5; labels are strings or whole numbers"),
        ("x.csv", ["anchor,positive", "a"], "x.csv:2: not 2 fields as in the header"),
        ("x.csv", ["anchor,positive", 'a,"b'], "x.csv:2: malformed CSV"),
        ("x.txt", ["a"], "x.txt: unknown format; give a file that ends in .jsonl"),
        ("x.parquet", ["a"], "x.parquet: not a readable Parquet file"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, file: str, rows: list[Any], message: str) -> None:
    source = write(tmp_path / file, *rows)
    with pytest.raises(UserError) as error:
        load_task(DataSource(source))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"anchor": "question"}}, "no column 'question' (see 'columns'); found anchor, positive"),
        ({"prompts": {"query": "q: "}}, "prompts names query; the text columns are anchor, positive"),
        ({"limit": 0}, "limit is 0; it must be at least 1"),
        ({"min_score": 1.0}, "has no column 'score', which min_score needs"),
        ({"loss": LossConfig("cosent")}, "loss 'cosent' does not fit pairs rows; set it to infonce or auto"),
        ({"loss": LossConfig(temperature=0)}, "loss.temperature is 0; it must be above 0"),
    ],
)
def test_a_bad_option_is_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    source = write(tmp_path / "x.jsonl", PAIR)
    with pytest.raises(UserError) as error:
        load_task(DataSource(source, **options))
    assert message in str(error.value)


def test_min_score_that_no_row_reaches(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", PAIR | {"score": 1})
    with pytest.raises(UserError, match="no row has a score of 2 or more; lower min_score"):
        load_task(DataSource(source, min_score=2))


def test_a_damaged_archive(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"x\.jsonl\.gz: cannot be read"):
        load_task(DataSource(str(tmp_path / "x.jsonl.gz")))


@pytest.mark.parametrize("source", ["missing.jsonl", "./folder/missing", "word"])
def test_a_source_that_is_nowhere(source: str) -> None:
    with pytest.raises(UserError, match=rf"data source '{source}': no such file \(looked for /"):
        load_task(DataSource(source))


def test_python_docs_needs_a_task() -> None:
    with pytest.raises(UserError, match="python_docs needs 'task': retrieval or relatedness"):
        load_task(DataSource("python_docs"))
