import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from datamodules import DataSource, ProbeDataModule, SplitTask, TaskData, TaskDataModule, load_tasks, named_sources
from datamodules.row_groups import comparable
from modules.errors import UserError
from modules.losses.task_batch import LossConfig

Pair = tuple[str, str]


def pairs_file(path: Path, pairs: Sequence[Pair]) -> str:
    path.write_text("".join(json.dumps({"anchor": a, "positive": b}) + "\n" for a, b in pairs))
    return str(path)


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """Two data sets: anchors of three rows each, and rows whose texts occur in the first up to case and space."""
    first = [(f"question {row // 3}", f"answer {row}") for row in range(120)]
    second = [(f"title {row}", f"Answer  {row}" if row % 2 else f"body {row}") for row in range(90)]
    return [pairs_file(tmp_path / "first.jsonl", first), pairs_file(tmp_path / "second.jsonl", second)]


def texts(*data: TaskData) -> set[str]:
    return {comparable(text) for part in data for column in part.texts for text in column}


def anchors(*data: TaskData) -> set[str]:
    return {comparable(text) for part in data for text in part.texts[0]}


def rows(data: TaskData) -> list[tuple[str, ...]]:
    return list(zip(*data.texts, strict=True))


def parts(split: SplitTask) -> list[TaskData]:
    return [split.expert, split.probe, split.validation]


def shared(of: Callable[[TaskData], set[str]], *splits: SplitTask) -> set[str]:
    """What is found in two parts, be it of one data set or of two."""
    expert, probe, validation = (set().union(*map(of, part)) for part in zip(*map(parts, splits), strict=True))
    return expert & probe | expert & validation | probe & validation


def test_every_row_is_in_a_part_or_left_out_for_a_reason(sources: list[str]) -> None:
    splits = load_tasks(sources, probe_size=10, validation_size=8)
    assert list(splits) == ["first", "second"]
    for split, total in zip(splits.values(), (120, 90), strict=True):
        assert (len(split.probe), len(split.validation)) == split.requested == (10, 8)
        assert split.read == total
        placed = [place for part in (split.expert, split.probe, split.validation) for place in part.places]
        assert len(placed) == len(set(placed)) == total - sum(split.left_out.values())
    assert splits["first"].left_out == {"rest of a held-out group": 6}
    assert splits["second"].left_out == {}


def test_no_anchor_is_in_two_parts_of_any_data_sets(tmp_path: Path) -> None:
    first = pairs_file(tmp_path / "first.jsonl", [(f"question {row}", f"answer {row}") for row in range(120)])
    second = pairs_file(tmp_path / "second.jsonl", [(f"Question  {row}", f"reply {row}") for row in range(60, 180)])
    splits = load_tasks({"first": first, "second": second}, probe_size={"first": 30, "second": 5}, validation_size=5)
    assert not shared(anchors, *splits.values())
    assert splits["second"].left_out.keys() == {"held out of another data set"}


def test_one_file_under_two_names_has_the_same_expert_rows(tmp_path: Path) -> None:
    """Pairs of one kind of text: rows that are linked to held-out ones are left out under both names."""
    chains = [(f"text {row}", f"text {row if row % 5 == 0 else row - 1}") for row in range(300)]
    source = pairs_file(tmp_path / "x.jsonl", chains)
    again = DataSource(source, name="again")
    splits = load_tasks([source, again], probe_size={"x": 20, "again": 0}, validation_size={"x": 9, "again": 0})
    assert splits["x"].expert.texts == splits["again"].expert.texts
    assert splits["x"].left_out["rest of a held-out group"] > 0


def test_a_group_lies_in_one_part() -> None:
    split = load_tasks([DataSource("python_docs", task="relatedness")], probe_size=100, validation_size=50)
    groups = [set(part.groups or []) for task in split.values() for part in parts(task)]
    assert all(groups)
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_a_smaller_probe_is_the_beginning_of_a_larger_one(sources: list[str]) -> None:
    small, large = (load_tasks(sources, probe_size=size, validation_size=6) for size in (7, 20))
    for name in small:
        assert rows(large[name].probe)[:7] == rows(small[name].probe)
        assert rows(large[name].validation) == rows(small[name].validation)


def test_the_reserve_keeps_the_experts_the_same(sources: list[str]) -> None:
    modules = [
        ProbeDataModule([DataSource(source) for source in sources], size, 16, batch_size=4, reserve=40)
        for size in (8, 40)
    ]
    for module in modules:
        module.setup()
    small, large = (module.splits for module in modules)
    assert [len(split.probe) for split in small] == [4, 4]
    assert [len(split.probe) for split in large] == [20, 20]
    assert [rows(split.expert) for split in small] == [rows(split.expert) for split in large]
    assert all(rows(b.probe)[:4] == rows(a.probe) for a, b in zip(small, large, strict=True))


def test_weights_move_probe_rows_between_data_sets(sources: list[str]) -> None:
    module = ProbeDataModule(
        [DataSource(source) for source in sources], 24, 8, batch_size=4, task_weights={"first": 2, "second": 1}
    )
    module.setup()
    assert [(len(split.probe), len(split.validation)) for split in module.splits] == [(16, 5), (8, 3)]
    assert list(module.task_losses) == ["first", "second"]


def test_a_loss_of_the_probe_stands_in_for_the_data_sets_own(sources: list[str]) -> None:
    module = ProbeDataModule([DataSource(source) for source in sources], 8, 8, loss=LossConfig(temperature=0.2))
    module.setup()
    losses = {part.loss.temperature for split in module.splits for part in (split.probe, split.validation)}
    assert losses == {0.2}


def test_at_most_a_third_is_held_out(sources: list[str]) -> None:
    split = load_tasks(sources[:1], probe_size=90, validation_size=30)["first"]
    assert (len(split.probe), len(split.validation)) == (30, 10)
    assert split.requested == (90, 30)


def test_the_split_depends_on_the_seed_only(sources: list[str]) -> None:
    first, again, other = (load_tasks(sources, probe_size=9, validation_size=9, seed=seed) for seed in (1, 1, 2))
    for one, two in zip(first.values(), again.values(), strict=True):
        assert list(map(rows, parts(one))) == list(map(rows, parts(two)))
        assert (one.left_out, one.notes, one.requested) == (two.left_out, two.notes, two.requested)
    assert rows(first["first"].probe) != rows(other["first"].probe)


def test_sizes_by_name_and_names_of_a_mapping(sources: list[str]) -> None:
    named = {"a": sources[0], "b": DataSource(sources[1], share=2.0)}
    splits = load_tasks(named, probe_size={"a": 3, "b": 5}, validation_size=2)
    assert [(split.name, split.expert.name, len(split.probe), split.share) for split in splits.values()] == [
        ("a", "a", 3, None),
        ("b", "b", 5, 2.0),
    ]


def test_python_docs_leave_enough_for_the_quickstart() -> None:
    limits = {"retrieval": 600, "relatedness": 600, "classification": None}
    tasks = [DataSource("python_docs", task=task, limit=limit) for task, limit in limits.items()]
    *docs, classification = splits = [*load_tasks(tasks, probe_size=64, validation_size=96).values()]
    assert all(len(split.expert) > 400 for split in docs)
    assert len(classification.expert) > 5 * sum(len(split.expert) for split in docs)
    held_out = texts(*(part for split in splits for part in (split.probe, split.validation)))
    assert not texts(*(split.expert for split in splits)) & held_out


def test_two_data_sets_of_one_name(sources: list[str]) -> None:
    with pytest.raises(UserError, match="two data sets are called 'first'; give one of them a 'name' of its own"):
        named_sources([sources[0], sources[0]])


def test_no_data_sets() -> None:
    with pytest.raises(UserError, match="no data sets are given"):
        named_sources([])
    with pytest.raises(UserError, match="the probe has no data sets"):
        ProbeDataModule().setup()


def test_texts_of_one_label(tmp_path: Path) -> None:
    file = tmp_path / "tickets.csv"
    file.write_text("text,label\n" + "".join(f"ticket {i},home\n" for i in range(20)))
    with pytest.raises(UserError, match="tickets: all texts have one label, so there is nothing to tell apart"):
        load_tasks([str(file)], probe_size=4, validation_size=2)


def test_sizes_that_fit_no_data_set(sources: list[str]) -> None:
    for size in (-1, {"first": 3}):
        with pytest.raises(
            UserError, match=r"probe_size is .*; give one number of 0 or more, or one for each of first"
        ):
            load_tasks(sources, probe_size=size, validation_size=2)


def test_weights_that_fit_no_data_set(sources: list[str]) -> None:
    module = ProbeDataModule([DataSource(sources[0])], task_weights={"other": 1.0})
    with pytest.raises(UserError, match=r"task_weights is .*; give a weight above 0 for each of first"):
        module.setup()


def test_a_reserve_smaller_than_the_probe() -> None:
    with pytest.raises(UserError, match="reserve is 4, less than the probe's size 8"):
        ProbeDataModule(size=8, reserve=4)


@pytest.mark.parametrize("shares", [(1.0, None), (1.0, 0.0)])
def test_shares_for_some_data_sets_only(sources: list[str], shares: tuple[float, float | None]) -> None:
    tasks = [DataSource(source, share=share) for source, share in zip(sources, shares, strict=True)]
    with pytest.raises(UserError, match="give every data set a share above 0, or none of them"):
        TaskDataModule(tasks, validation_size=4).setup()


def test_split_tasks_are_used_as_they_are(sources: list[str]) -> None:
    splits: list[SplitTask] = list(load_tasks(sources, probe_size=4, validation_size=4).values())
    module = TaskDataModule(splits)
    module.setup()
    assert module.splits == splits
