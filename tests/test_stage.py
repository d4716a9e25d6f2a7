"""The key of a stage: all of its fields but those that are marked, and what is in them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from lightning_app.stages.model import Model
from lightning_app.stages.stage import BESIDE_KEY, ResultFolders, Stage
from lightning_app.stages.stage_graph import DONE, PART, StageGraph, with_inputs
from modules import Adam, Bfgs, MergeMethod, Search, Slerp


@dataclass(frozen=True)
class Counted:
    """Counts its runs in a file, and may be stopped in the middle."""

    value: Any
    place: str = field(default="", metadata=BESIDE_KEY)


@dataclass(frozen=True)
class Write(Stage):
    kind = "text"

    settings: Counted
    models: tuple[tuple[str, Model], ...] = ()
    method: MergeMethod = field(default_factory=Slerp)
    search: Search = field(default_factory=Bfgs)
    stops: list[int] = field(default_factory=list, metadata=BESIDE_KEY)

    def run(self, folder: Path, graph: ResultFolders) -> None:
        with (folder / "runs.txt").open("a") as file:
            file.write(f"{self.name}\n")
        if self.stops:
            self.stops.pop()
            raise KeyboardInterrupt
        for _, model in self.models:
            assert Path(model.folder(graph)).parent.is_dir()


FIRST = Write("first", Counted(1))


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        (replace(FIRST, name="another"), True),
        (replace(FIRST, settings=Counted(1, "elsewhere")), True),
        (replace(FIRST, stops=[1]), True),
        (replace(FIRST, settings=Counted(2)), False),
        (replace(FIRST, settings=Counted({"a": [1.0, None]})), False),
        (replace(FIRST, method=Slerp(order=["b"])), False),
        (replace(FIRST, search=Adam(0.1)), False),
        (replace(FIRST, models=(("x", Model("x", stage=replace(FIRST, settings=Counted(3)))),)), False),
    ],
)
def test_every_field_counts_but_those_that_are_marked(other: Stage, equal: bool) -> None:
    assert (other.key == FIRST.key) is equal


def test_kind_version_and_libraries_count(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {FIRST.key}
    for name, value in (("kind", "other"), ("version", 2), ("libraries", ("torch",))):
        with monkeypatch.context() as patch:
            patch.setattr(Write, name, value)
            keys.add(replace(FIRST).key)
    assert len(keys) == 4


def test_the_order_of_models_counts() -> None:
    models = [(name, Model(name, stage=replace(FIRST, settings=Counted(name)))) for name in "ab"]
    keys = {replace(FIRST, models=tuple(order)).key for order in (models, models[::-1])}
    assert len(keys) == 2


def test_a_field_without_a_form_for_the_key_is_refused() -> None:
    with pytest.raises(TypeError, match="of type object has no form for a key"):
        _ = replace(FIRST, settings=Counted(object())).key


def test_the_stages_in_its_fields_are_its_inputs() -> None:
    second = replace(FIRST, name="second", settings=Counted([FIRST]))
    third = Write("third", Counted(0), models=(("a", Model("a", stage=second)), ("b", Model("b", stage=FIRST))))
    assert second.inputs == (FIRST,) and [stage.name for stage in third.inputs] == ["second", "first"]
    assert [stage.name for stage in with_inputs([third])] == ["first", "second", "third"]


def test_a_stopped_stage_goes_on_in_its_folder_which_is_named_when_it_is_whole(tmp_path: Path) -> None:
    graph, stage = StageGraph(tmp_path), replace(FIRST, stops=[1])
    with pytest.raises(KeyboardInterrupt):
        graph.run(stage)
    folder = graph.folder(stage)
    assert not folder.exists() and folder.with_name(folder.name + PART).is_dir() and not graph.is_done(stage)
    graph.run(stage)
    graph.run(stage)
    assert (folder / "runs.txt").read_text() == "first\nfirst\n" and (folder / DONE).is_file()
    assert [path.name for path in graph.root.iterdir()] == [folder.name]


def test_what_a_finished_stage_was_made_of_is_not_made_again(tmp_path: Path) -> None:
    graph = StageGraph(tmp_path)
    made = replace(FIRST, name="made", settings=Counted([FIRST]))
    graph.run(made)
    (graph.folder(FIRST) / DONE).unlink()
    assert graph.missing([made]) == [] and graph.missing([FIRST]) == [FIRST]
