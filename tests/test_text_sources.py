import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from datamodules import DataSource, load_task
from modules.errors import UserError
from modules.losses.task_batch import LossConfig

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
    assert (task.kind, task.texts, task.target.tolist()) == ("graded", [["a, b"], ["c"]], [0.25])
    assert task.loss == LossConfig("cosent", 0.1)


@pytest.mark.parametrize("labels", [["red", "blue", "red"], [7, 3, 7]])
def test_labels_are_numbered(tmp_path: Path, labels: list[Any]) -> None:
    source = write(tmp_path / "x.jsonl.gz", *[{"text": "t", "label": label} for label in labels])
    task = load_task(DataSource(source))
    assert (task.kind, task.target.tolist(), task.loss.name) == ("labelled", [1, 0, 1], "supcon")


def test_parquet_and_renamed_columns(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.csv"])
def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path, name: str) -> None:
    header = ["\ufeffanchor,positive", "a,b"] if name == "x.csv" else ["\ufeff" + json.dumps(PAIR)]
    assert load_task(DataSource(write(tmp_path / name, *header))).texts == [["a"], ["b"]]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0c", "\x1d"])
def test_a_row_ends_at_a_line_feed_only(tmp_path: Path, separator: str) -> None:
    text = f"a{separator}b"
    row = json.dumps({"anchor": text, "positive": text}, ensure_ascii=False)
    assert load_task(DataSource(write(tmp_path / "x.jsonl", row, row))).texts == [[text] * 2] * 2
    assert load_task(DataSource(write(tmp_path / "x.csv", "anchor,positive", f"{text},{text}"))).texts == [[text]] * 2


def test_a_long_csv_field(tmp_path: Path) -> None:
    text = "word " * 60_000
    assert load_task(DataSource(write(tmp_path / "x.csv", "anchor,positive", f"a,{text}"))).texts == [["a"], [text]]


def test_a_list_of_positives_is_a_row_for_each(tmp_path: Path) -> None:
    rows = [{"query": "a", "pos": ["b", "c"], "neg": ["n", "m"]}, {"query": "d", "pos": "e", "neg": ["o", "p"]}]
    source = write(tmp_path / "x.jsonl", *rows)
    task = load_task(DataSource(source, columns={"anchor": "query", "positive": "pos", "negative": "neg"}))
    assert list(zip(*task.texts, strict=True)) == [("a", "b", "n", "m"), ("a", "c", "n", "m"), ("d", "e", "o", "p")]
    assert task.places.tolist() == [1, 1, 2]
    assert task.notes == ["2 rows with lists of positives are 3 pairs"]
    plural = write(tmp_path / "y.jsonl", {"anchor": "a", "positives": ["b", "c"], "negatives": ["n"]})
    assert load_task(DataSource(plural, prompts={"negative": "p: "})).prompts == [None, None, "p: "]


@pytest.mark.parametrize(
    ("negatives", "kept", "counts"),
    [
        ([{"negative_1": "n", "negative_2": "m"}, {"negative_1": "o"}], [["n", "o"], ["m", ""]], "1 to 2"),
        ([{"negative_2": "m"}, {"negative_1": "o", "negative_2": " "}], [["m", "o"]], None),
        ([{"negative": ["n", "m"]}, {"negative": ["o"]}], [["n", "o"], ["m", ""]], "1 to 2"),
        ([{"negative": ["n", "m"]}, {"negative": []}], [["n", ""], ["m", ""]], "0 to 2"),
        ([{"negative": "n"}, {}], [["n", ""]], "0 to 1"),
        ([{"negative": None}, {"negative": "n"}], [["", "n"]], "0 to 1"),
        ([{"negative": []}, {"negative": None}], [], None),
        (
            [{"negative_1": ["n", "m"], "negative_2": "l"}, {"negative_2": ["k"]}],
            [["n", "k"], ["m", ""], ["l", ""]],
            "1 to 3",
        ),
    ],
)
def test_rows_keep_all_their_negatives(
    tmp_path: Path, negatives: list[dict[str, Any]], kept: list[list[str]], counts: str | None
) -> None:
    task = load_task(DataSource(write(tmp_path / "x.jsonl", *(PAIR | columns for columns in negatives))))
    assert task.texts == [["a", "a"], ["b", "b"], *kept]
    assert task.notes == ([f"rows have {counts} negatives, and all of them are used"] if counts else [])
    assert task.subset([1, 1, 0]).texts[2:] == [[column[1], column[1], column[0]] for column in kept]


def test_pairs_of_one_row_have_its_negatives(tmp_path: Path) -> None:
    rows = [{"query": "a", "pos": ["b", "c"], "neg": ["n", "m"]}, {"query": "d", "pos": "e", "neg": []}]
    task = load_task(DataSource(write(tmp_path / "x.jsonl", *rows)))
    expected = [("a", "b", "n", "m"), ("a", "c", "n", "m"), ("d", "e", "", "")]
    assert list(zip(*task.texts, strict=True)) == expected


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_data_set_that_was_saved_to_disk(tmp_path: Path, split: str) -> None:
    rows = datasets.Dataset.from_list([PAIR])
    rows.save_to_disk(str(tmp_path / "one"))
    assert load_task(DataSource(str(tmp_path / "one"))).texts == [["a"], ["b"]]
    datasets.DatasetDict({split: rows}).save_to_disk(str(tmp_path / "several"))
    assert load_task(DataSource(str(tmp_path / "several"), split=split)).texts == [["a"], ["b"]]
    with pytest.raises(UserError, match=f"several: has no split 'test', only {split}; set 'split'"):
        load_task(DataSource(str(tmp_path / "several"), split="test"))
    (tmp_path / "one" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(UserError, match="one: cannot be read as a data set of save_to_disk"):
        load_task(DataSource(str(tmp_path / "one")))


def test_a_folder_of_files(tmp_path: Path) -> None:
    """All of them, or those that are named like the split, each read as if it were given alone."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / ".x.jsonl.part").touch()
    for number in (1, 0):
        pair = {"anchor": [f"a{number}"], "positive": [f"b{number}"]}
        parquet.write_table(pyarrow.table(pair), tmp_path / "parts" / f"part-{number}.parquet")
    task = load_task(DataSource(str(tmp_path / "parts")))
    assert (task.name, task.texts, task.places.tolist()) == ("parts", [["a0", "a1"], ["b0", "b1"]], [1, 2])

    (tmp_path / "splits").mkdir()
    for split in ("train", "test"):
        write(tmp_path / "splits" / f"{split}-00000-of-00001.jsonl", PAIR | {"anchor": split})
    for split in ("train", "test"):
        assert load_task(DataSource(str(tmp_path / "splits"), split=split)).texts == [[split], ["b"]]
    with pytest.raises(UserError, match="splits: has no files of split 'dev', only of test, train; set 'split'"):
        load_task(DataSource(str(tmp_path / "splits"), split="dev"))

    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: a folder without data files \(\.jsonl"):
        load_task(DataSource(str(tmp_path / "empty")))


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_labels_that_look_like_missing_ones_are_labels(tmp_path: Path, name: str) -> None:
    labels = ["NA", "None", "null", "0"]
    rows = [{"text": "t", "label": label} for label in labels]
    lines = ["text,label", *(f"t,{label}" for label in labels)] if name == "x.csv" else rows
    task = load_task(DataSource(write(tmp_path / name, *lines)))
    assert task.target.tolist() == [1, 2, 3, 0]
    assert task.notes == ["taken as labels like any other, not as missing: 'NA', 'None', 'null'"]


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", PAIR | {"score": 1, "negativ": "n", "group": "g"})
    assert load_task(DataSource(source)).notes == ["columns that are not used: negativ, score"]
    assert load_task(DataSource(source, min_score=1)).notes == ["columns that are not used: negativ"]
    renamed = DataSource(source, columns={"negative": "negativ"})
    assert load_task(renamed).notes == ["columns that are not used: score"]


def test_rows_know_their_places_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    rows = [PAIR | {"anchor": f"a{row}", "score": row} for row in range(10)]
    source = write(tmp_path / "x.jsonl", rows[0], "", *rows[1:])
    task = load_task(DataSource(source, min_score=4, limit=3))
    assert task.left_out == {"below min_score": 4, "limit": 3}
    assert [f"a{place - 2}" for place in task.places] == task.texts[0]
    assert [task.subset([2, 0]).places.tolist(), task.subset([2, 0]).fingerprint()] == [
        [task.places[2], task.places[0]],
        replace(task.subset([2, 0]), places=None, left_out={}, notes=["x"], name="y").fingerprint(),
    ]
    csv = write(tmp_path / "x.csv", "anchor,positive", "a,b", '"c\nd",e')
    assert load_task(DataSource(csv)).places.tolist() == [2, 4]


def test_prompts_of_negatives_are_those_of_the_positive(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", PAIR | {"negative": "n"})
    task = load_task(DataSource(source, prompts={"anchor": "query: ", "positive": "passage: "}))
    assert task.prompts == ["query: ", "passage: ", "passage: "]


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
        (DataSource("org/name", config="en"), "name-en"),
        (DataSource("data/pairs.tsv.zst"), "pairs"),
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
        ("x.jsonl", [PAIR | {"anchor": ["a"]}], "x.jsonl:1: holds a list in column 'anchor'"),
        ("x.jsonl", [PAIR | {"positive": []}], "x.jsonl:1: holds a list in column 'positive'"),
        ("x.jsonl", [PAIR | {"positive": ["a", " "]}], "x.jsonl:1: the list in column 'positive' holds something else"),
        ("x.jsonl", [PAIR | {"negative": 3}], "x.jsonl:1: holds no string in column 'negative'"),
        ("x.jsonl", [GRADED | {"sentence1": ["a"]}], "x.jsonl:1: holds a list in column 'sentence1'"),
        ("x.jsonl", [PAIR | {"group": 0.5}], "x.jsonl:1: group is 0.5; groups are strings or whole numbers"),
        ("x.jsonl", [PAIR | {"group": 1}, PAIR], "x.jsonl:2: group is None; groups are strings or whole numbers"),
        ("x.jsonl", [{"text": "t", "label": None}], "x.jsonl:1: label is None; labels are strings or whole numbers"),
        ("x.jsonl", [GRADED, GRADED | {"score": 5}], "x.jsonl:2: score is 5; scores lie in 0 to 1"),
        ("x.jsonl", [GRADED | {"score": "high"}], "x.jsonl:1: score is 'high', not a number"),
        ("x.jsonl", [GRADED | {"score": None}], "x.jsonl:1: score is None; scores lie in 0 to 1"),
        ("x.jsonl", [{"text": "t", "label": 0.5}], "x.jsonl:1: label is 0.5; labels are strings or whole numbers"),
        ("x.csv", ["anchor,positive", "a"], "x.csv:2: not 2 fields as in the header"),
        ("x.jsonl", [PAIR, '{"anchor": "\\ud83d", "positive": "b"}'], "x.jsonl:2: holds half a character (a lone surr"),
        ("x.jsonl", ["[" * 100_000], "x.jsonl:1: not valid JSON (too deeply nested)"),
        (
            "x.jsonl",
            [f'{{"anchor": {"1" * 5000}, "positive": "b"}}'],
            "x.jsonl:1: not valid JSON (a number has too many digits)",
        ),
        ("x.csv", ["anchor,positive", 'a,"b'], "x.csv:2: malformed CSV"),
        ("x.tsv", ["anchor\tpositive", "a\tb\tc"], "x.tsv:2: not 2 fields as in the header"),
        ("x.csv", ["anchor,positive"], "x.csv: has no rows"),
        ("x.json", ['[{"anchor": "a", "positive": "b"}, 3]'], "x.json:row 2: holds int, not an object"),
        ("x.json", ['[{"anchor": "a", "positive": "b"} {}]'], "x.json:row 1: not valid JSON (no comma or end"),
        ("x.json", ['[{"anchor": "a", "positive": "b"}'], "x.json:row 1: not valid JSON (no comma or end"),
        ("x.json", ['[{"anchor": "a", '], "x.json:row 1: not valid JSON (Expecting property name"),
        (
            "x.json",
            ['[{"anchor": "a", "positive": "b"}] 3'],
            "x.json: not valid JSON (more behind the end of the list)",
        ),
        ("x.json", ['{"anchor":', '"a"}'], "x.json:1: not valid JSON (Expecting value)"),
        ("x.json", ["[]"], "x.json: has no rows"),
        ("x.arrow", ["a"], "x.arrow: not a readable Arrow file"),
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
        ({"columns": {"query": "anchor"}}, "columns names 'query'; expected are anchor, positive, negative"),
        ({"score_range": (0, 5)}, "x: score_range is for graded rows, and these are pairs; remove it"),
        ({"score_range": (5, 0)}, "x: score_range is (5, 0); give two numbers, the lower one first"),
        ({"on_bad_row": "ignore"}, "x: on_bad_row is 'ignore'; set it to stop or skip"),
        ({"task": "retrieval"}, "x: task is not for "),
        ({"config": "en"}, "x: config is not for "),
        ({"revision": "main"}, "x: revision is not for "),
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
    with pytest.raises(UserError, match="python_docs needs 'task': retrieval, relatedness or classification"):
        load_task(DataSource("python_docs"))


def test_a_hub_name_has_a_config_and_no_task() -> None:
    with pytest.raises(UserError, match="name: task is for python_docs; write config: en for a hub data set"):
        load_task(DataSource("org/name", task="en"))


def test_scores_are_rescaled(tmp_path: Path) -> None:
    rows = [GRADED | {"score": score} for score in (0, 2.5, 5)]
    source = write(tmp_path / "x.jsonl", *rows)
    with pytest.raises(
        UserError, match=r"x.jsonl:2: score is 2.5; scores lie in 0 to 1, or give their range, score_ra"
    ):
        load_task(DataSource(source))
    assert load_task(DataSource(source, score_range=(0, 5))).target.tolist() == [0, 0.5, 1]
    assert load_task(DataSource(source, score_range=(-5, 5), min_score=1)).target.tolist() == [0.75, 1]
    with pytest.raises(UserError, match=r"x.jsonl:3: score is 5; scores lie in 0 to 4, mend it, or score_range"):
        load_task(DataSource(source, score_range=(0, 4)))


BAD_ROWS = ["{", [1], {"anchor": "a"}, PAIR | {"positive": " "}, PAIR | {"negative": 3}, PAIR | {"positive": []}]


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_a_bad_row_is_skipped_if_wanted(tmp_path: Path, bad: Any) -> None:
    source = write(tmp_path / "x.jsonl", PAIR, PAIR, bad, PAIR | {"anchor": "z"}, bad)
    with pytest.raises(UserError, match="x.jsonl:3: ") as error:
        load_task(DataSource(source))
    task = load_task(DataSource(source, on_bad_row="skip"))
    assert (task.texts, task.places.tolist()) == ([["a", "a", "z"], ["b"] * 3], [1, 2, 4])
    ((reason, count),) = task.left_out.items()
    assert reason.startswith("bad row (") and count == 2
    assert f"2 bad rows are skipped, the first: {error.value}" in task.notes


def test_a_source_without_a_good_row(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", PAIR | {"anchor": " "}, "{")
    with pytest.raises(UserError, match="x.jsonl: none of its 2 rows can be used, the first: .*x.jsonl:1: is blank"):
        load_task(DataSource(source, on_bad_row="skip"))


def test_bad_rows_of_a_table_are_counted_by_reason(tmp_path: Path) -> None:
    lines = ["sentence1,sentence2,score", "a,b,0.5", "a,b", "a,b,2", "a,,1", "a,b,high", "c,d,1", "a,b,-1"]
    task = load_task(DataSource(write(tmp_path / "x.csv", *lines), on_bad_row="skip"))
    assert (task.texts, task.target.tolist(), task.places.tolist()) == ([["a", "c"], ["b", "d"]], [0.5, 1], [2, 7])
    assert task.left_out == {
        "bad row (wrong number of fields)": 1,
        "bad row (no score in 0 to 1)": 2,
        "bad row (no text in 'sentence2')": 1,
        "bad row (no number in 'score')": 1,
    }
