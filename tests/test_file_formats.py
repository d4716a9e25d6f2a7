"""One set of rows in every format, and what is peculiar to one of them."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from datamodules import DataSource, load_task
from datamodules.sources import csv_files, json_files, row_blocks, text_lines
from modules.errors import UserError

TEXTS = [
    "a cat",
    'says "no", twice',
    "tab\there",
    "猫 \U0001f408",
    "two\nlines",
    "u2028\u2028inside",
    " spaces ",
    "x" * 99,
]
ROWS = [
    {"sentence1": text, "sentence2": f"{text} {i}", "score": i / 8, "group": i, "extra": text}
    for i, text in enumerate(TEXTS)
]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def delimited(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    return sink.getvalue().to_pybytes()


def arrow_stream(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "x.jsonl": lambda path: path.write_bytes(jsonl(ROWS)),
    "x.jsonl.gz": lambda path: path.write_bytes(gzip.compress(jsonl(ROWS))),
    "x.jsonl.zst": lambda path: path.write_bytes(zstd(jsonl(ROWS[:5])) + zstd(jsonl(ROWS[5:]))),
    "x.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "lines.json": lambda path: path.write_bytes(jsonl(ROWS)),
    "x.json.gz": lambda path: path.write_bytes(gzip.compress(("\ufeff " + json.dumps(ROWS) + "\n").encode())),
    "x.csv": lambda path: path.write_bytes(delimited(ROWS, ",")),
    "x.csv.zst": lambda path: path.write_bytes(zstd(delimited(ROWS, ","))),
    "x.tsv": lambda path: path.write_bytes(delimited(ROWS, "\t")),
    "x.parquet": lambda path: parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=3),
    "x.arrow": arrow_stream,
    "x.feather": lambda path: feather.write_feather(pa.Table.from_pylist(ROWS), str(path)),
    "saved": lambda path: datasets.Dataset.from_list(ROWS).save_to_disk(str(path), num_shards=2),
    "categories.parquet": lambda path: parquet.write_table(
        pa.Table.from_pylist(ROWS).set_column(0, "sentence1", pa.array(TEXTS).dictionary_encode()), path
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    task = load_task(DataSource(str(tmp_path / name)))
    assert task.texts == [TEXTS, [row["sentence2"] for row in ROWS]]
    assert task.target.tolist() == [row["score"] for row in ROWS]
    assert task.groups == [str(row["group"]) for row in ROWS]
    assert task.notes == ["columns that are not used: extra"]
    last_lines = [2, 3, 4, 5, 9, 10, 11, 12]  # three texts of the fifth row have two lines
    assert task.places.tolist() == (last_lines if "sv" in name else list(range(1, 9)))


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
@pytest.mark.parametrize("mark", [";", "\t"])
def test_what_separates_the_fields_of_a_csv_file_is_seen_in_its_header(tmp_path: Path, name: str, mark: str) -> None:
    content = b"\xef\xbb\xbf" + delimited(ROWS, mark)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    task = load_task(DataSource(str(tmp_path / name)))
    assert task.texts == [TEXTS, [row["sentence2"] for row in ROWS]]
    assert task.notes[0] == f"the fields of {name} are separated by {mark!r}"


@pytest.mark.parametrize("size", [1, 7, 64])
def test_files_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Whatever lies at the border of two parts of a file, or of two blocks of rows."""
    for module in (text_lines, json_files):
        monkeypatch.setattr(module, "PART", size)
    for module in (row_blocks, csv_files):
        monkeypatch.setattr(module, "BLOCK_ROWS", 3)
    for name in ("x.jsonl", "x.json", "x.csv", "x.jsonl.zst", "x.feather", "saved"):
        test_every_format_gives_the_same_rows(tmp_path, name)


def test_shards_of_several_formats(tmp_path: Path) -> None:
    for number, name in enumerate(["x.jsonl.gz", "x.json", "x.parquet", "x.tsv"]):
        WRITERS[name](tmp_path / f"train-{number}{name[1:]}")
    (tmp_path / "dataset_info.json").write_text("{}")
    task = load_task(DataSource(str(tmp_path)))
    assert task.texts[0] == TEXTS * 4
    assert task.places.tolist() == list(range(1, 33))
    with open(tmp_path / "train-1.json", "w") as file:
        json.dump([*ROWS, 5], file)
    with pytest.raises(UserError, match="train-1.json:row 9: holds int, not an object"):
        load_task(DataSource(str(tmp_path)))
    assert load_task(DataSource(str(tmp_path), on_bad_row="skip")).places.tolist() == [*range(1, 17), *range(18, 34)]


LINES = [
    '{"anchor": "a", "positive": "b"}{"anchor": "c", "positive": "d"}',
    '{"anchor": "a", "positive": "b"} 3',
    '{"anchor": "a",\n"positive": "b"}',
    '{"anchor": "a", "positive": "b",}',
    '{"anchor": "a\tb", "positive": "b"}',
    "{'anchor': 'a', 'positive': 'b'}",
    '{"anchor": "a", "positive": "b"\x0c}',
    '{"anchor": "\\udc00", "positive": "b"}',
]
"""What pyarrow may read where Python does not."""


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("around", [[], ['{"anchor": "x", "positive": "y"}']])
def test_no_line_is_read_that_is_no_json(tmp_path: Path, line: str, around: list[str]) -> None:
    (tmp_path / "x.jsonl").write_text("\n".join([*around, line, *around]) + "\n")
    with pytest.raises(UserError, match=f"x.jsonl:{1 + len(around)}: "):
        load_task(DataSource(str(tmp_path / "x.jsonl")))


SAME_LINES = [
    '{"anchor": "2020-01-01", "positive": "2020-01-01 10:00:00"}',
    '{"anchor": "first", "anchor": "last", "positive": "p"}',
    '{"anchor": "a\\u0000b", "positive": "\\ud83d\\udc08"}',
    ' {"anchor": "a", "positive": "b", "score": NaN, "n": 1e999, "big": 123456789012345678901234567890} \r',
    '{"positive": "\\u00a0x", "anchor": "a", "extra": {"anchor": ["deep"]}}',
    '{"anchor": "a", "positive": ["b", "c"], "negative": null}',
    '{"anchor": "a", "positive": "b", "negative": []}',
    '{"anchor": "a", "positive": ["b"], "negative": ["n", "m"]}',
]


def test_lines_are_read_as_python_reads_them(tmp_path: Path) -> None:
    """Alone, where a whole block can be read by columns, and among others, where it cannot."""
    for lines in [*([line] * 2 for line in SAME_LINES), SAME_LINES, ["", *SAME_LINES, " \t", *reversed(SAME_LINES)]]:
        (tmp_path / "x.jsonl").write_text("\n".join(lines))
        rows = [(i, json.loads(line)) for i, line in enumerate(lines, 1) if line.strip()]
        as_list = {key: lambda cell: cell if isinstance(cell, list) else [cell] for key in ("positive", "negative")}
        expected = [
            (number, row["anchor"], positive, [n for n in as_list["negative"](row.get("negative")) if n])
            for number, row in rows
            for positive in as_list["positive"](row["positive"])
        ]
        task = load_task(DataSource(str(tmp_path / "x.jsonl")))
        anchors, positives, *negatives = map(list, task.texts)
        own = [[column[row] for column in negatives if column[row]] for row in range(len(task))]
        assert list(zip(task.places.tolist(), anchors, positives, own, strict=True)) == expected


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    latin = '{"anchor": "é", "positive": "b"}\n'.encode("latin-1")
    (tmp_path / "x.jsonl").write_bytes(jsonl([{"anchor": "a", "positive": "b"}]) + latin)
    with pytest.raises(UserError, match=r"x.jsonl:2: not UTF-8 \(invalid continuation byte\); save the file as UTF-8"):
        load_task(DataSource(str(tmp_path / "x.jsonl")))
    (tmp_path / "name.jsonl").write_bytes(b'{"anchor": "a", "positive": "b", "\xe9": 1}\n')
    with pytest.raises(UserError, match="name.jsonl:1: not UTF-8"):
        load_task(DataSource(str(tmp_path / "name.jsonl")))
    skipping = load_task(DataSource(str(tmp_path / "x.jsonl"), on_bad_row="skip"))
    assert (skipping.texts, skipping.left_out) == ([["a"], ["b"]], {"bad row (not UTF-8)": 1})
    for name, content in (("x.csv", b"anchor,positive\na," + b"\xe9\n"), ("x.json", b"[" + latin + b"]")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: not UTF-8 .*; save the file as UTF-8"):
            load_task(DataSource(str(tmp_path / name)))


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst", "x.csv.gz", "x.json.gz", "x.parquet", "x.feather"])
def test_a_file_that_ends_too_early(tmp_path: Path, name: str) -> None:
    if name not in WRITERS:
        (tmp_path / name).write_bytes(gzip.compress(delimited(ROWS, ",")))
    else:
        WRITERS[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"{name}: (cannot be read|not a readable)") as error:
        load_task(DataSource(str(tmp_path / name)))
    assert "\n" not in str(error.value)


def test_cells_that_datasets_decodes(tmp_path: Path) -> None:
    """Texts of a column of mixed types are stored as JSON."""
    mixed = datasets.Features({"anchor": datasets.Json(), "positive": datasets.Value("string")})
    data = datasets.Dataset.from_list([{"anchor": "a", "positive": "b"}, {"anchor": "c", "positive": "d"}], mixed)
    data.save_to_disk(str(tmp_path / "saved"))
    assert load_task(DataSource(str(tmp_path / "saved"))).texts == [["a", "c"], ["b", "d"]]
    classes = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_list([{"text": "t", "label": 1}, {"text": "u", "label": 0}], classes)
    data.select([1, 0, 1]).save_to_disk(str(tmp_path / "labelled"))
    task = load_task(DataSource(str(tmp_path / "labelled")))
    assert (task.texts, task.target.tolist()) == ([["u", "t", "u"]], [0, 1, 0])
