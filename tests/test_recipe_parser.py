"""One parser for all verbs: every section typed, the command line laid over, one line for a mistake."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_app.recipe.command_line import VERBS
from lightning_app.recipe.model_recipes import ExpertRecipe, MergeRecipe
from lightning_app.recipe.position_settings import PositionSettings
from lightning_app.recipe.recipe_file import packaged_recipes
from lightning_app.recipe.recipe_parser import dump, instantiate, parse
from lightning_app.recipe.recipe_schema import OPTIONS, SECTIONS
from modules import Bfgs, LossConfig, Ties, UserError

ROOT = Path(__file__).parent.parent

RECIPE: dict[str, Any] = {
    "run_dir": "here",
    "model": {
        "base": "models/base",
        "experts": {"qa": {"recipe": "qa"}, "given": "models/given"},
        "search": {"class_path": "modules.Adam", "init_args": {"lr": 0.05}},
    },
    "recipes": {
        "defaults": {"lr": "1e-3", "loss": {"name": "infonce"}},
        "qa": {"data": [{"source": "qa.jsonl", "limit": 5}]},
        "joint": {"mix": {"qa": None}, "loss": None, "max_steps": 7},
    },
    "merges": {"halves": {"weighting": "equal", "scales": [0.5, 1]}},
    "probe": {"size": 32},
    "trainer": {"devices": 1, "callbacks": [{"class_path": "lightning.pytorch.callbacks.Timer"}]},
    "study": {"sensitivity": {"mu": [0.0, 0.1]}},
}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return "recipe.yaml"


def printed(capsys: pytest.CaptureFixture[str], verb: str, *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        parse(verb, list(words))
    assert end.value.code == 0
    return capsys.readouterr().out


def test_sections_become_objects(recipe: str) -> None:
    config = parse("fit", ["--config", recipe])
    made = instantiate(
        recipes=(dict[str, ExpertRecipe], config.recipes), merges=(dict[str, MergeRecipe], config.merges)
    )
    assert made.recipes["qa"].lr == 1e-3
    assert made.recipes["qa"].loss == LossConfig("infonce")
    assert made.recipes["qa"].data[0].limit == 5
    assert made.recipes["joint"] == ExpertRecipe(mix={"qa": None}, lr=1e-3, max_steps=7)
    assert made.merges == {"halves": MergeRecipe(weighting="equal", scales=[0.5, 1.0])}
    assert config.model.experts["given"] == "models/given"
    assert config.model.experts["qa"].recipe == "qa"
    assert config.position.max_epochs == 40
    assert config.study.sensitivity.mu == [0.0, 0.1]
    assert config.study.resampling.of == "joint"
    assert (config.quiet, config.fresh, config.seed_everything) == (False, False, 0)
    assert "max_epochs" not in config.trainer


def test_the_command_line_reaches_everything(recipe: str) -> None:
    words = ["--config", recipe, "--quiet", "--fresh=true", "--run_dir", "2026", "--recipes.qa.max_steps", "5"]
    words += ["--recipes.joint.mix.qa=2", "--recipes.new", "{start: joint, mix: {qa: 1}}", "--merges.halves.scales=[1]"]
    words += ["--model.experts.third", "models/third", "--model.search=modules.Bfgs", "--model.method=modules.Ties"]
    words += ["--model.method.density=0.5", "--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping"]
    words += ["--trainer.callbacks.monitor=loss", "--trainer.max_steps", "11", "--model.granularity=2"]
    config = parse("fit", words)
    assert (config.quiet, config.fresh, config.run_dir) == (True, True, "2026")
    assert (config.recipes["qa"].max_steps, config.recipes["joint"].mix) == (5, {"qa": 2.0})
    assert (config.recipes["new"].start, config.recipes["new"].lr) == ("joint", 1e-3)
    assert config.merges["halves"].scales == [1.0]
    assert list(config.model.experts) == ["qa", "given", "third"]
    made = instantiate(search=(Bfgs, config.model.search), method=(Ties, config.model.method))
    assert isinstance(made.search, Bfgs)
    assert made.method.density == 0.5
    timer, stopping = config.trainer.callbacks
    assert timer.class_path.endswith("Timer")
    assert stopping.init_args.monitor == "loss"
    assert (config.position.max_steps, config.model.granularity) == (11, 2)


def test_options_belong_to_their_verb(recipe: str) -> None:
    words = ["--config", recipe, "--texts", "a.txt", "--out=b", "--prompt", "query: ", "--ckpt_path", "7"]
    config = parse("predict", words)
    assert (config.texts, config.out, config.prompt, config.ckpt_path) == ("a.txt", "b", "query: ", "7")
    assert parse("study", ["--config", recipe, "--dry_run"]).dry_run
    for verb, names in OPTIONS.items():
        config = parse(verb, ["--config", recipe])
        assert {name for others in OPTIONS.values() for name in others if name in config} == set(names)


def test_a_study_is_laid_over_any_recipe(recipe: str) -> None:
    assert parse("study", ["--config", recipe]).study.points == 0
    Path("study.yaml").write_text("study: {points: 3}")
    config = parse("study", ["--config", recipe, "--config", "study.yaml"])
    assert (config.study.points, config.study.sensitivity.mu) == (3, [0.0, 0.1])


def test_the_default_recipes() -> None:
    assert parse("fit", []).run_dir == "runs/quickstart"
    assert parse("study", []).run_dir == "runs/quick"


def test_the_recipe_of_a_benchmark() -> None:
    assert parse("fit", ["--config", str(ROOT / "benchmarks" / "search.yaml")]).position.max_epochs == 1


@pytest.mark.parametrize("name", [*packaged_recipes()])
def test_a_printed_recipe_gives_the_same_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--config", name, "--run_dir=x", "--recipes.joint.max_steps=3", "--trainer.max_steps=9")
    text = printed(capsys, "study", *words, "--print_config")
    assert set(yaml.safe_load(text)) >= set(SECTIONS)
    (tmp_path / "printed.yaml").write_text(text)
    again = parse("study", ["--config", str(tmp_path / "printed.yaml")])
    assert again == parse("study", [*words])
    assert dump(again) == dump(parse("predict", ["--config", str(tmp_path / "printed.yaml")])) == text


@pytest.mark.parametrize("verb", VERBS)
def test_all_verbs_read_the_same_recipe(verb: str, recipe: str) -> None:
    assert dump(parse(verb, ["--config", recipe])) == dump(parse("fit", ["--config", recipe]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.muu", "3"], r"^unknown key 'model.muu'; did you mean 'model.mu'\?$"),
        (["--trainer.acelerator", "cpu"], r"^unknown key 'trainer.acelerator'; did you mean 'trainer.accelerator'\?$"),
        (["--folder", "x"], r"^--folder: unknown key 'folder'; "),
        (["--modle.mu", "3"], r"^--modle.mu: unknown key 'modle'; did you mean model\?$"),
        (["--confg", "x"], r"^--confg: unknown key 'confg'; did you mean config\?$"),
        (["--data.size", "3"], r"^--data.size: this section is called probe; data is a recipe's list of data sources$"),
        (["--model.mu", "abc"], r"model.mu.*float.*abc"),
        (["--recipes.qa.lrr", "1"], r"^recipes.qa: unknown key 'lrr'; did you mean 'lr'\?$"),
        (["--recipes.qa.data.limt", "1"], r"^recipes.qa.data: unknown key 'limt'; did you mean 'limit'\?$"),
        (["--recipes.qa.data.limit", "many"], r"^recipes.qa.data.limit: expected int, got many$"),
        (["--recipes.qa.loss", "warm"], r"^recipes.qa.loss: there is no class 'warm'; give keys with values, or the"),
        (["--recipes.qa", "x"], r"^recipes.qa: expected keys with values, got x$"),
        (["--position", "3"], r"^position: expected keys with values, got 3$"),
        (["--model.experts", "{x: {recip: y}}"], r"^model.experts: unknown key 'recip'; did you mean 'recipe'\?$"),
        (["--model.granularity", "[1]"], r"^model.granularity: expected int or str, got \[1\]$"),
        (["--model.search.lr", "fast"], r"^model.search.lr: expected float, got fast$"),
        (["--model.method.densty", "2"], r"^model.method: expected instantiatable class.*got {'densty': '2'}$"),
        (
            ["--model.method", "modules.Tie"],
            r"^model.method: there is no class 'modules.Tie'; did you mean 'modules.Ties'",
        ),
        (["--merges.x.method", "Tis"], r"^merges.x.method: there is no class 'Tis'; did you mean 'modules.Ties'\?$"),
        (
            ["--trainer.callbacks+", "lightning.pytorch.callbacks.EarlyStopping"],
            r"^trainer.callbacks: missing: monitor$",
        ),
        (["--model.mu"], r"^--model.mu needs a value; one that starts with -- is given as --model.mu=VALUE$"),
        (["model.mu", "3"], r"^'model.mu' is no key; keys are given as --key value$"),
        (["--config", "quickstrat"], r"^recipe 'quickstrat' is neither a file nor .* did you mean quickstart\?$"),
        (["--help", "modle"], r"^--help: there is no section 'modle'; did you mean model\?$"),
    ],
)
def test_a_mistake_on_the_command_line(words: list[str], message: str, recipe: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse("fit", ["--config", recipe, *words])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n  muu: 3", r"^x.yaml:2: unknown key 'model.muu'; did you mean 'model.mu'\?$"),
        ("model:\n  mu: abc", r"^x.yaml:2: model.mu: expected float, got abc$"),
        ("recipes:\n  qa:\n    lrr: 1", r"^x.yaml:3: recipes.qa: unknown key 'lrr'; did you mean 'lr'\?$"),
        ("recipes:\n  qa:\n    data:\n      - {sorce: 1}", r"^x.yaml:4: recipes.qa.data: unknown key 'sorce'; did you"),
        ("recipes:\n  defaults: {lrr: 1}", r"^x.yaml:2: recipes.qa: unknown key 'lrr'; did you mean 'lr'\?$"),
        ("recipes:\n  qa:\n    lr: fast", r"^x.yaml:3: recipes.qa.lr: expected float, got fast$"),
        (
            "merges:\n  halves: {weighting: some}",
            r"^x.yaml:2: merges.halves.weighting: expected learned\|equal.*, got some$",
        ),
        ("study:\n  sensitivity:\n    muu: 1", r"^x.yaml:3: unknown key 'study.sensitivity.muu'; did you mean"),
        ("model: {method: modules.Tie}", r"^x.yaml:1: model.method: there is no class 'modules.Tie'; did you mean"),
        (
            "mteb: {every_n_epoch: 1}",
            r"^x.yaml:1: unknown key 'mteb.every_n_epoch'; did you mean 'mteb.every_n_epochs'",
        ),
        ("trainer: {max_step: 1}", r"^x.yaml:1: unknown key 'trainer.max_step'"),
    ],
)
def test_a_mistake_in_a_recipe(text: str, message: str, recipe: str) -> None:
    Path("x.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        parse("fit", ["--config", recipe, "--config", "x.yaml"])
    assert "\n" not in str(error.value)


def test_a_recipe_without_a_base(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("run_dir: x")
    with pytest.raises(UserError, match=r"^missing: model.base$"):
        parse("fit", ["--config", str(tmp_path / "x.yaml")])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_epochs", "-3", r"^position.max_epochs is -3; give at least -1$"),
        ("check_val_every_n_epoch", "0", r"^position.check_val_every_n_epoch is 0; give at least 1$"),
        ("accumulate_grad_batches", "0", r"^position.accumulate_grad_batches is 0; give at least 1$"),
        ("limit_train_batches", "1.5", r"^position.limit_train_batches is 1.5; give a number of batches, or a part"),
        ("val_check_interval", "0", r"^position.val_check_interval is 0; give a number of batches, or a part"),
        ("max_time", "7", r"^position.max_time is 7; give days, hours, minutes, seconds as 00:00:30:00$"),
        ("max_time", "10:00:00", r"^position.max_time is 10:00:00; give days, hours, minutes, seconds as"),
        ("gradient_clip_algorithm", "mean", r"^position.gradient_clip_algorithm: expected norm\|value, got mean$"),
    ],
)
def test_lengths_out_of_range(key: str, value: str, message: str, recipe: str) -> None:
    with pytest.raises(UserError, match=message):
        config = parse("fit", ["--config", recipe, f"--position.{key}", value])
        instantiate(position=(PositionSettings, config.position))


def test_lengths_within_range(recipe: str) -> None:
    words = [f"--position.{key}={value}" for key, value in {"max_time": "01:00:00:00", "max_epochs": "-1"}.items()]
    words += ["--position.limit_train_batches=0.5", "--position.val_check_interval=3", "--position.gradient_clip_val=0"]
    made = instantiate(position=(PositionSettings, parse("fit", ["--config", recipe, *words]).position)).position
    assert made == PositionSettings(
        max_epochs=-1, max_time="01:00:00:00", limit_train_batches=0.5, val_check_interval=3, gradient_clip_val=0
    )
