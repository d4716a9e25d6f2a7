import json
from pathlib import Path

from datamodules import DataSource, load_tasks
from lightning_app.report.rows_table import data_table
from modules.encoding.prompts import SidePrompts


def test_every_row_of_a_source_is_accounted_for(tmp_path: Path) -> None:
    """At both ends: what was drawn away while reading, what the split leaves out, and parts that are reduced."""
    rows = [{"anchor": f"q{row // 3}", "positive": f"p{row}", "score": row % 4, "id": row} for row in range(200)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = DataSource(str(tmp_path / "x.jsonl"), limit=120, min_score=1, prompts={"anchor": "q: "})
    (split,) = load_tasks([source], probe_size=60, validation_size=10).values()
    of_base: SidePrompts = {"query": "of the base", "document": "d: ", "text": ""}
    table, notes = data_table([split], of_base).markdown().split("\n\n")
    header, _, line = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
    assert header == ["data set", "read", "expert", "probe", "validation", "left out", "why"]
    name, read, expert, probe, validation, left_out, why = line
    assert (name, read, probe, validation) == ("x", "200", "34 of 60", "5 of 10")
    assert int(expert) + 34 + 5 + int(left_out) == 200
    reasons = {reason: int(rows) for reason, rows in (part.split(": ") for part in why.split(", "))}
    assert (reasons["below min_score"], reasons["limit"], sum(reasons.values())) == (50, 30, int(left_out))
    assert notes.splitlines() == [
        "- x: query 'q: ', document 'd: '",
        "- x: columns that are not used: id",
        "- x: 60 probe and 10 validation rows are wanted, and at most a third of 120 is held out",
    ]


def test_bad_rows_that_were_skipped_are_shown(tmp_path: Path) -> None:
    rows = [json.dumps({"anchor": f"q{row}", "positive": f"p{row}"}) for row in range(30)]
    (tmp_path / "x.jsonl").write_text("\n".join([*rows, "{", '{"anchor": "q"}', "["]))
    source = DataSource(str(tmp_path / "x.jsonl"), on_bad_row="skip")
    (split,) = load_tasks([source], probe_size=4, validation_size=4).values()
    table, notes = data_table([split], {"query": "", "document": "", "text": ""}).markdown().split("\n\n")
    cells = [cell.strip() for cell in table.splitlines()[-1].split("|")[1:-1]]
    why = "bad row (not valid JSON): 2, bad row (no text in 'positive'): 1"
    assert cells == ["x", "33", "22", "4", "4", "3", why]
    assert f"- x: 3 bad rows are skipped, the first: {tmp_path}/x.jsonl:31: not valid JSON" in notes
