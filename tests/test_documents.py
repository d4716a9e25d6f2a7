"""What the documents say is there: links, files, commands, options, recipes."""

import csv
import random
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml

from lightning_app.recipe.composition import DEFAULTS
from lightning_app.recipe.recipe_parser import parse
from lightning_app.recipe.recipe_schema import SECTIONS, RunKeys
from lightning_app.recipe.recipe_settings import read_settings
from lightning_app.stages.recipe_models import RecipeModels
from lightning_app.stages.train import Train
from lightning_app.verbs.merge import parse as parse_merge
from modules import TextEncoder, UserError
from tests import document_commands
from tests.conftest import write_rows
from tests.documents import DOCUMENTS, ROOT, Block, anchors, blocks, code_in_text, commands, links
from tests.tiny_encoder import WORDS, tiny_encoder
from tests.tiny_mirror import write_xquad

OUR_FILE = re.compile(r"(lightning_app|modules|datamodules|callbacks|docs|benchmarks|tests|examples)/[\w/.-]+\.\w+")

RECIPE_KEYS = {*SECTIONS, *RunKeys.__dataclass_fields__, "extends", "baselines+"}


def write_models(folder: Path) -> None:
    """The models that documents speak of: a base and three that were trained from it."""
    tiny_encoder().save(folder / "BASE")
    for seed, name in enumerate("ABC"):
        encoder = TextEncoder.load(folder / "BASE")
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in encoder.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        encoder.save(folder / name)
    shutil.copytree(folder / "A", folder / "runs/mine/model")


def write_data(folder: Path) -> None:
    """The files of rows that documents speak of."""
    draw = random.Random(0)
    texts = [" ".join(draw.sample(WORDS, 5)) for _ in range(800)]
    pairs = list(zip(texts[:400], texts[400:], strict=True))
    write_rows(folder / "faq.jsonl", [{"anchor": a, "positive": b} for a, b in pairs])
    write_rows(
        folder / "reviews.jsonl", [{"sentence1": a, "sentence2": b, "stars": draw.randint(0, 5)} for a, b in pairs]
    )
    write_csv(folder / "similarity.csv", ["sentence1", "sentence2", "score"], [(a, b, draw.random()) for a, b in pairs])
    write_csv(folder / "tickets.csv", ["body", "queue"], [(text, draw.randint(0, 3)) for text in texts])


def write_csv(path: Path, header: list[str], rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models, rows and recipes of the documents."""
    folder = tmp_path_factory.mktemp("documents")
    write_models(folder)
    write_data(folder)
    for block in blocks("yaml"):
        if block.file:
            (folder / block.file).write_text(block.text)
    return folder


@pytest.fixture
def there(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(written)
    monkeypatch.delenv("MTEB_DATA_ROOT", raising=False)
    return written


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name}: there is no {link}"
        assert not anchor or anchor in anchors(target), f"{document.name}: there is no heading {link}"


def test_the_index_has_every_guide() -> None:
    index = ROOT / "docs/README.md"
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {index.name} <= {
        link.partition("#")[0] for link in links(index)
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_are_there(document: Path) -> None:
    described = {block.file for block in blocks("python") if block.document == document}
    for text in code_in_text(document):
        if OUR_FILE.fullmatch(text) and text not in described:
            assert (ROOT / text).exists(), f"{document.name}: there is no {text}"


def test_the_drawing_names_files_that_are_there() -> None:
    names = re.findall(r'class="file"[^>]*>([^<]+)<', (ROOT / "docs/architecture.svg").read_text())
    assert len(names) > 15
    for name in names:
        places = [ROOT / name, ROOT / "modules" / name, ROOT / "lightning_app" / name]
        assert any(place.exists() for place in places), f"there is no {name}"


@pytest.mark.usefixtures("there")
def test_commands_are_read_by_their_parsers() -> None:
    found = list(commands())
    assert len(found) > 40
    for place, words in found:
        try:
            document_commands.check(list(words))
        except (UserError, AssertionError, KeyError, SystemExit) as error:
            pytest.fail(f"{place}: {' '.join(words)}: {error}")


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    "command",
    [
        "python -m lightning_app fitt",
        "python -m lightning_app fit --model.muu 0.1",
        "python -m lightning_app fit --config nowhere.yaml",
        "python -m lightning_app fit --mteb.tasks [STSBenchmrk]",
        "python -m lightning_app merge --method slrep --base BASE --experts A B --out merged",
        "python -m lightning_app evaluate --model A --tasks STSBenchmrk --out scores",
        "python benchmarks/nothing.py",
        "python benchmarks/data.py --raws 3",
        "python benchmarks/settle.py quickstart --trainer.precison 32-true",
        "benchmarks/gpu.sh --tinny",
        "python -m pytest tests/test_nothing.py",
        "python -m pytest -m nothing",
        "python -m pip install .[nothing]",
        "make nothing",
        "rm -rf runs",
    ],
)
def test_a_wrong_command_is_found(command: str) -> None:
    with pytest.raises((UserError, AssertionError, KeyError, SystemExit)):
        document_commands.check(command.split())


def test_options_in_the_text_are_there() -> None:
    for document in DOCUMENTS:
        for text in code_in_text(document):
            if document_commands.PROGRAMS.get(text.partition(" ")[0]) is document_commands.anything:
                continue
            for option in re.findall(r"(?:^| )(--[\w.-]+)", text):
                known = option in document_commands.option_names() or is_key(option)
                assert known, f"{document.name}: nothing has the option {option}"


def is_key(option: str) -> bool:
    """Whether an option is a key of a recipe."""
    try:
        parse("fit", [option, "null"])
    except UserError as error:
        return "unknown key" not in str(error)
    return True


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_recipes_are_composed_and_checked(block: Block) -> None:
    content = yaml.safe_load(block.text)
    if "merge_method" in content:
        assert parse_merge(["--config", block.file, "--out", "new"]).base
    elif "configs" in content:
        check_card(content)
    else:
        assert set(content) <= RECIPE_KEYS, f"{block}: nobody checks this kind of YAML"
        check_recipe(block, content)


def check_recipe(block: Block, content: dict[str, Any]) -> None:
    """Lay a recipe over my.yaml, unless it has models of its own, and build the stage of every model that it names."""
    whole = "experts" in content.get("model", {}) and "base" in content["model"]
    path = Path(block.file or "unnamed.yaml")
    path.write_text(block.text)
    recipes = [path] if whole else [Path("my.yaml"), path]
    words = [word for recipe in recipes for word in ("--config", str(recipe))]
    config = parse("study", [*words, "--model.base", "BASE", "--trainer.accelerator", "cpu"])
    models = RecipeModels(read_settings(config))
    named = [name for section in ("recipes", "merges") for name in content.get(section, {}) if name != DEFAULTS]
    for model in [models.main, *models.baseline_models(), *map(models.model, named)]:
        assert model.path or model.stage
        if isinstance(model.stage, Train):
            model.stage.data().setup()
    assert set(config.mteb.tasks or []) <= set(document_commands.known_names())


def check_card(content: dict[str, Any]) -> None:
    """Compare the card of a mirrored data set with the layout that is read in other tests."""
    folder = write_xquad(Path("mirror"))
    card = f"---\n{yaml.safe_dump(content)}---\n"
    (folder / "README.md").write_text(card)
    assert {entry["config_name"] for entry in content["configs"]} == set(datasets.get_dataset_config_names(str(folder)))
