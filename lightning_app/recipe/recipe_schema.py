"""The sections of a recipe and the options of the verbs; their keys, types and texts are those of the classes here."""

from dataclasses import dataclass, field
from typing import Any

from lightning import Trainer

from callbacks import MtebCallback
from datamodules import DataSource, ProbeDataModule
from lightning_app.recipe.model_recipes import ExpertRecipe, MergeRecipe
from lightning_app.recipe.position_settings import TRAINER_LENGTHS, PositionSettings
from lightning_app.recipe.study_recipe import StudyRecipe
from modules import Expert, MergeModule


@dataclass(frozen=True)
class RunKeys:
    """Keys of a recipe that stand by themselves.

    Args:
        seed_everything: of all random numbers: data order, dropout, splits of the data.
        run_dir: everything that a run makes goes here: stages, logs, report, the merged model.
        fresh: forget the results in ``run_dir`` first.
        baselines: names of the other rows of the table: ``base``, ``experts``, ``joint``, models and merges.
        decontaminate: remove training rows that are texts of the tasks, and say how many.
    """

    seed_everything: int = 0
    run_dir: str = "runs/run"
    fresh: bool = False
    baselines: list[str] = field(default_factory=list)
    decontaminate: bool = False


@dataclass(frozen=True)
class VerbOptions:
    """Options of the verbs, which no recipe has.

    Args:
        folder: a model folder; else the run's model.
        ckpt_path: a checkpoint of the position; else the run's.
        texts: a file with one text a line.
        out: the safetensors file to write: ``embeddings`` [texts, dim].
        prompt_name: a prompt of the model by name, as ``query``; else its default prompt.
        prompt: what goes before every text instead.
        dry_run: print the stages and about how long they take, and run none.
        quiet: print the result only.
        log_json: print progress as lines of JSON.
        push_to_hub: ``org/name`` on the Hugging Face hub, where the model is sent to at the end.
        private: make a new repository there a private one.
    """

    folder: str | None = None
    ckpt_path: str | None = None
    texts: str | None = None
    out: str | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    dry_run: bool = False
    quiet: bool = False
    log_json: bool = False
    push_to_hub: str | None = None
    private: bool = False


OPTIONS = {
    "fit": ("dry_run", "quiet", "log_json", "push_to_hub", "private"),
    "validate": ("ckpt_path", "quiet", "log_json"),
    "test": ("folder", "ckpt_path", "quiet", "log_json"),
    "predict": ("folder", "ckpt_path", "texts", "out", "prompt_name", "prompt"),
    "study": ("dry_run", "quiet", "log_json"),
}
"""Verb to the `VerbOptions` that it takes."""


@dataclass(frozen=True)
class Section:
    """A section of a recipe.

    Args:
        owner: the class whose arguments are its keys.
        text: what it is about, in a few words.
        named: whether it holds any number of entries by name, each with these keys.
        skipped: arguments of the class that are no keys.
        types: types and defaults of keys that differ in a recipe from those of the class.
    """

    owner: type
    text: str
    named: bool = False
    skipped: tuple[str, ...] = ()
    types: dict[str, tuple[Any, Any]] = field(default_factory=dict)


SECTIONS = {
    "model": Section(MergeModule, "the merge", types={"experts": (dict[str, Expert | str], {})}),
    "recipes": Section(ExpertRecipe, "models to train, by name; keys of the entry `defaults` are those of all", True),
    "merges": Section(MergeRecipe, "models to merge, by name; `defaults` as above", True),
    "probe": Section(
        ProbeDataModule, "rows kept out of all experts, to learn on", types={"tasks": (list[DataSource] | None, None)}
    ),
    "position": Section(PositionSettings, "how long every learned position is trained"),
    "mteb": Section(MtebCallback, "the tasks that models are scored on"),
    "study": Section(StudyRecipe, "what the verb study looks at beside the rows of its table"),
    "trainer": Section(Trainer, "arguments of lightning.Trainer that every training shares", skipped=TRAINER_LENGTHS),
}
"""The sections in the order in which they are printed."""
