"""Several recipes and the command line make one: later wins, key by key, and a mistake is said with file and line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_app.recipe.composition import Composed, compose, laid_over
from lightning_app.recipe.recipe_file import packaged_recipes, read_recipe, read_recipes
from modules import UserError

SECTIONS = (
    "seed_everything",
    "run_dir",
    "model",
    "recipes",
    "merges",
    "probe",
    "position",
    "trainer",
    "baselines",
    "study",
)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def written(name: str, text: str) -> str:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
        return name

    return written


def composed(*names: str, **keys: str) -> Composed:
    given = [(key.replace("__", "."), value) for key, value in keys.items()]
    return compose(read_recipes(list(names)), given, SECTIONS)


ADAM = {"class_path": "modules.Adam", "init_args": {"lr": 1, "betas": [2]}}


@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 4}, "e": 5}, {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {}}),
        ({"a": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        (ADAM, {"class_path": "modules.Bfgs"}, {"class_path": "modules.Bfgs"}),
        (ADAM, "modules.Bfgs", {"class_path": "modules.Bfgs"}),
        (ADAM, {"class_path": "modules.Adam"}, ADAM),
        (ADAM, "modules.Adam", ADAM),
        (ADAM, None, None),
        (ADAM, {"init_args": {"lr": 3}}, {"class_path": "modules.Adam", "init_args": {"lr": 3, "betas": [2]}}),
        (ADAM, {"lr": 3}, {"class_path": "modules.Adam", "init_args": {"lr": 3, "betas": [2]}}),
        ("modules.Ties", {"density": 1}, {"class_path": "modules.Ties", "init_args": {"density": 1}}),
        ("models/a", {"recipe": "a"}, {"recipe": "a"}),
        ({"a": [1]}, {"a+": [2]}, {"a": [1, 2]}),
        ({}, {"a+": "x"}, {"a": ["x"]}),
        ({"a": ["x", "modules.Ties"]}, {"a": {"density": 1}}, {"a": ["x", laid_over("modules.Ties", {"density": 1})]}),
    ],
)
def test_one_value_over_another(below: Any, above: Any, expected: Any) -> None:
    before = repr((below, above))
    assert laid_over(below, above) == expected
    assert repr((below, above)) == before


def test_later_recipes_and_the_command_line_win(write: Any) -> None:
    fit = write(
        "fit.yaml", "run_dir: a\nmodel: {mu: 1, experts: {x: {recipe: x}}}\nrecipes: {x: {lr: 1e-3, rows: probe}}"
    )
    study = write("study.yaml", "run_dir: b\nmodel: {mu: 2}\nrecipes: {x: {lr: 2e-3}}\nstudy: {points: 3}")
    found = composed(fit, study, model__mu="3", recipes__x__max_steps="5", model__experts__y="models/y")
    assert found.content == {
        "run_dir": "b",
        "model": {"mu": "3", "experts": {"x": {"recipe": "x"}, "y": "models/y"}},
        "recipes": {"x": {"lr": 2e-3, "rows": "probe", "max_steps": "5"}},
        "study": {"points": 3},
    }
    assert found.places["recipes.x.lr"] == "study.yaml:3"
    assert found.places["recipes.x.rows"] == "fit.yaml:3"
    assert found.places["model.mu"] == ""


def test_values_of_the_command_line(write: Any) -> None:
    fit = write("fit.yaml", "run_dir: a\nbaselines: [base]")
    keys = {
        "recipes__x": "{lr: 1e-3, loss: null}",
        "recipes__x__start": "null",
        "run_dir": "2026",
        "baselines+": "joint",
    }
    assert composed(fit, **keys).content == {
        "run_dir": "2026",
        "baselines": ["base", "joint"],
        "recipes": {"x": {"lr": 1e-3, "loss": None, "start": None}},
    }
    with pytest.raises(UserError, match=r"^--baselines:1: not valid YAML"):
        composed(fit, baselines="[base")
    with pytest.raises(UserError, match=r"^--recipes:1: 'x.lr' is there already, in line 1; keep one"):
        composed(fit, recipes="{x: {lr: 1, lr: 2}}")


def test_defaults_are_the_keys_that_an_entry_lacks(write: Any) -> None:
    fit = write(
        "fit.yaml",
        "recipes:\n  defaults: {lr: 1, loss: {temperature: 1}}\n"
        "  a: {loss: null}\n  b: {lr: 2, loss: {name: cosent}}\n  c:\n",
    )
    found = composed(
        fit, recipes__defaults__batch_size="8", recipes__a__lr="3", merges__defaults__mu="1", merges__m="{}"
    )
    assert found.content["recipes"] == {
        "a": {"lr": "3", "loss": None, "batch_size": "8"},
        "b": {"lr": 2, "loss": {"name": "cosent"}, "batch_size": "8"},
        "c": {"lr": 1, "loss": {"temperature": 1}, "batch_size": "8"},
    }
    assert found.content["merges"] == {"m": {"mu": "1"}} and not found.remarks
    said = composed(fit, recipes__a__lr="3", recipes__c="{lr: 4}", recipes__defaults__lr="5")
    assert [entry["lr"] for entry in said.content["recipes"].values()] == ["3", 2, 4]
    assert said.remarks == ["recipes.defaults.lr: changes nothing, because every entry says its own lr"]


def test_lengths_of_the_trainer_are_those_of_the_position(write: Any) -> None:
    fit = write("fit.yaml", "trainer: {max_epochs: 3, devices: 1}\nposition: {max_steps: 5}")
    found = composed(fit, trainer__max_steps="7", trainer__check_val_every_n_epoch="2")
    assert found.content["trainer"] == {"devices": 1}
    assert found.content["position"] == {"max_epochs": 3, "max_steps": "7", "check_val_every_n_epoch": "2"}
    assert found.remarks == [
        "trainer.max_epochs: taken as position.max_epochs; experts have max_steps in their recipes",
        "trainer.max_steps: taken as position.max_steps; experts have max_steps in their recipes",
        "trainer.check_val_every_n_epoch: taken as position.check_val_every_n_epoch",
    ]
    both = write("both.yaml", "trainer: {devices: 1,\n  max_steps: 3}\nposition: {max_steps: 5}")
    with pytest.raises(UserError, match=r"^both.yaml:2: trainer.max_steps means position.max_steps, which is given as"):
        composed(both)


def test_anchors_numbers_and_dates(write: Any) -> None:
    text = "recipes:\n  a: &a {lr: 1e-3, rows: x}\n  b: &b {<<: *a, rows: y}\n  c: {<<: *b, lr: 2.5E+2}\n"
    text += "run_dir: 2026-01-31"
    assert composed(write("fit.yaml", text)).content == {
        "recipes": {"a": {"lr": 1e-3, "rows": "x"}, "b": {"lr": 1e-3, "rows": "y"}, "c": {"lr": 250.0, "rows": "y"}},
        "run_dir": "2026-01-31",
    }


def test_what_a_recipe_extends_is_below_it(write: Any) -> None:
    write("deep/base.yaml", "run_dir: base\nmodel: {mu: 1, pull: 1}\nseed_everything: 1")
    write("deep/middle.yaml", "extends: base.yaml\nmodel: {mu: 2}")
    top = write("top.yaml", "extends: [deep/middle.yaml, deep/base.yaml]\nseed_everything: 3")
    assert composed(top).content == {"run_dir": "base", "model": {"mu": 2, "pull": 1}, "seed_everything": 3}
    own = write("own.yaml", "run_dir: own\nextends: quickstart")
    assert [Path(file.path).name for file in read_recipes([own])] == ["quickstart.yaml", "own.yaml"]
    assert [Path(file.path).name for file in read_recipes([top, own, top])][-2:] == ["own.yaml", "top.yaml"]


def test_a_circle_of_recipes(write: Any) -> None:
    write("one/a.yaml", "run_dir: a\nextends: ../two/b.yaml")
    write("two/b.yaml", "extends: ../one/a.yaml")
    with pytest.raises(UserError, match=r"b.yaml:1: recipes extend each other in a circle"):
        read_recipes(["one/a.yaml"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run_dir: a\nmodel: {mu: 1,\n  mu: 2}", r"^x.yaml:3: 'model.mu' is there already, in line 2; keep one"),
        ("recipes:\n  a: {data: [{source: x, share: 1, share: 2}]}", r"^x.yaml:2: 'recipes.a.data.0.share' is there"),
        ("model: {mu: 1\nrun_dir: a", r"^x.yaml:2: not valid YAML"),
        ("model: &a {experts: {x: *a}}", r"^x.yaml: an anchor \(&\) lies within itself"),
        ("- model", r"^x.yaml: a recipe is a mapping of sections"),
        ("run_dir: !!python/name:os.system ''", r"^x.yaml:1: not valid YAML \(could not determine a constructor"),
        ("run_dir: a\nmodle: {mu: 1}", r"^x.yaml:2: unknown key 'modle'; did you mean model\?"),
        ("run_dir: a\nthing: 1", r"^x.yaml:2: unknown key 'thing'; known are seed_everything, run_dir, model,"),
        ("run_dir: a\n\ndata: {size: 3}", r"^x.yaml:3: data.tasks is needed"),
        ("probe: {size: 3}\ndata: {size: 3}", r"^x.yaml:2: data is another name of the section probe"),
        ("recipes: {defaults: [1], a: {}}", r"^recipes.defaults: give the keys that every entry is to have"),
        ("extends: {model: x}", r"^x.yaml:1: recipe '{'model': 'x'}' is neither a file nor a packaged recipe"),
        ("extends: quickstrat", r"^x.yaml:1: recipe 'quickstrat' is neither a file nor .* did you mean quickstart\?"),
    ],
)
def test_a_mistake_in_a_file(write: Any, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        composed(write("x.yaml", text))


def test_a_file_that_cannot_be_read(write: Any) -> None:
    Path("latin.yaml").write_bytes(b"run_dir: \xe4\xff")
    with pytest.raises(UserError, match=r"^recipe latin.yaml is not UTF-8"):
        read_recipe("latin.yaml")
    with pytest.raises(UserError, match=r"^recipe . cannot be read: Is a directory"):
        read_recipe(".")


@pytest.mark.parametrize("path", packaged_recipes().values())
def test_a_packaged_recipe_says_nothing_three_times(path: str) -> None:
    sections = {key.value: section for key, section in yaml.compose(Path(path).read_text()).value}
    entries = [entry for _, entry in sections["recipes"].value]
    said = [f"{key.value}: {yaml.serialize(value)}" for entry in entries for key, value in entry.value]
    assert not [pair for pair in said if said.count(pair) > 2 and not pair.startswith(("<<", "mix"))]


def test_a_section_data_is_the_probe_of_a_merge_or_the_rows_of_one_model(write: Any) -> None:
    merge = composed(write("a.yaml", "recipes: {a: {data: [x]}}\ndata: {size: 8}"))
    assert merge.content == {"recipes": {"a": {"data": ["x"]}}, "probe": {"size": 8}}
    assert merge.remarks == ["data: taken as the section probe; in recipes it is the list of data sets"]
    data = "data: {tasks: [x], batch_size: 4, validation_size: 9}"
    one = composed(write("b.yaml", f"model: {{base: m, lr: 0.1}}\n{data}\ntrainer: {{max_steps: 2, devices: 1}}"))
    assert one.content == {
        "model": {"base": "m"},
        "recipes": {"expert": {"data": ["x"], "batch_size": 4, "lr": 0.1, "max_steps": 2}},
        "probe": {"validation_size": 9},
        "trainer": {"devices": 1},
    }
    assert one.remarks == ["data: of one model, taken as recipes.expert"]
