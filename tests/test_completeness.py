"""What every setting and every file makes again, and what not: one row each, and a setting without a row fails.

A row names the stages whose own key changes; those that are made of them follow. Stages are built, none is run.
"""

import inspect
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from jsonargparse import Namespace
from lightning import Trainer
from safetensors.torch import save

from callbacks import MtebCallback
from callbacks.mteb.task_fingerprint import task_fingerprint
from datamodules import DataSource, ProbeDataModule
from lightning_app.recipe.model_recipes import ExpertRecipe, MergeRecipe
from lightning_app.recipe.position_settings import PositionSettings
from lightning_app.recipe.recipe_parser import instantiate, parse
from lightning_app.recipe.study_recipe import StudyRecipe
from lightning_app.stages.scorer import Scorer, scoring_content
from lightning_app.stages.stage import Stage
from lightning_app.stages.stage_graph import StageGraph, with_inputs
from lightning_app.study.study_rows import Study
from lightning_app.verbs.recipe_run import RecipeRun
from modules import Expert, LossConfig, MergeModule, UserError
from tests.conftest import Project, write_rows
from tests.tiny_encoder import tiny_encoder
from tests.tiny_mirror import PAIRS, write_sts, write_xquad

Names = set[str]
Row = tuple[dict[str, Any], Names]

TRAINED = {"model:qa", "model:sts", "model:joint", "model:late"}
WITH_SCALE = {"position:self_positioning", "position:around", "position:by_bfgs"}
POSITIONS = WITH_SCALE | {"position:learned_linear"}
MINI_BATCH = POSITIONS - {"position:by_bfgs"}
MODELS = ("base", "qa", "sts", "joint", "average", "learned_linear", "around", "by_bfgs", "mixture", "self_positioning")
PROBED = POSITIONS | {"merge:mixture"} | {f"{kind}:{name}" for name in MODELS for kind in ("probe", "probe_score")}
SCORED = {f"scores:{name}" for name in MODELS}
OF_EXPERTS = POSITIONS - {"position:around"} | {"merge:average", "merge:mixture"}
OF_BASE = TRAINED - {"model:late"} | POSITIONS | {"merge:average", "merge:mixture", "probe:base"}
OF_BASE |= {"probe_score:base", "scores:base"}
OF_QA = {"model:qa", "model:joint"} | PROBED
SPLITS = TRAINED | PROBED
COMPUTED = TRAINED | PROBED


def of(class_path: str, **arguments: Any) -> Namespace:
    return Namespace(class_path=class_path, init_args=Namespace(**arguments))


def recipe_of(project: Project) -> dict[str, Any]:
    """Experts, a joint model, one that starts from a folder; learned and fixed merges of several kinds."""
    recipe = project.content()
    sts = recipe["recipes"]["sts"]
    joint = {"mix": {"qa": None, "sts": None}, "batch_size": 8, "lr": 1e-3, "max_steps": 8}
    recipe["recipes"] |= {"joint": joint, "late": sts | {"start": str(project.folder / "given")}}
    recipe["merges"] = {
        "around": {"start": "joint", "experts": ["qa", "late"]},
        "by_bfgs": {"search": {"class_path": "modules.Bfgs"}},
        "mixture": {"weighting": "equal", "scales": [0.5, 1.0]},
    }
    recipe["baselines"] = ["base", "experts", "joint", "average", "learned_linear", *recipe["merges"]]
    recipe["mteb"] = {"tasks": ["STSBenchmark"], "data_root": str(project.folder / "mirror")}
    return recipe


class Keys:
    """The keys of all stages of a recipe, with some settings changed."""

    def __init__(self, project: Project, content: dict[str, Any] | None = None) -> None:
        project.write(content or recipe_of(project))
        self.config = parse("study", ["--config", str(project.recipe)])
        self.before = self.stages()

    def run(self, changes: dict[str, Any] | None = None) -> RecipeRun:
        config = deepcopy(self.config)
        for path, value in (changes or {}).items():
            *parents, last = path.split("/")
            part: Any = config
            for parent in parents:
                part = part[int(parent) if isinstance(part, list) else parent]
            part[last] = value
        return RecipeRun(config)

    def stages(self, changes: dict[str, Any] | None = None) -> dict[str, Stage]:
        run = self.run(changes)
        scorer = Scorer(run.mteb, torch.device("cpu"))
        recipe = instantiate(study=(StudyRecipe, run.config.study)).study
        made = Study(run.models, recipe, StageGraph(run.settings.run_dir), scorer, scorer)
        return {f"{stage.kind}:{stage.name}": stage for stage in with_inputs(made.known_stages())}

    def check(self, changes: dict[str, Any], roots: Names) -> None:
        """Assert that the stages of `roots`, and those made of them, have new keys, and no others."""
        after = self.stages(changes)
        known = {stage.key for stage in self.before.values()}
        new = {name for name, stage in after.items() if stage.key not in known}
        names = {stage.key: name for name, stage in after.items()}

        def made_of(stage: Stage) -> Iterator[str]:
            for needed in with_inputs([stage]):
                yield names[needed.key]

        expected = {name for name, stage in after.items() if roots.intersection(made_of(stage))}
        assert roots <= self.before.keys() | after.keys() and new == expected, f"{changes}: {new ^ expected}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(tmp_path_factory.mktemp("project"))
    for seed, name in enumerate(("given", "other"), start=1):
        tiny_encoder(seed=seed).save(made.folder / name)
    turned = [pair | {"score": 5 - pair["score"]} for pair in PAIRS]
    for mirror, pairs in (("mirror", PAIRS), ("copy", PAIRS), ("turned", turned)):
        write_sts(made.folder / mirror, pairs=pairs)
        write_xquad(made.folder / mirror)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(made.folder / "cache"))
        patch.delenv("MTEB_DATA_ROOT", raising=False)
        yield made


@pytest.fixture(scope="module")
def keys(project: Project) -> Keys:
    return Keys(project)


def expert_rows(project: Project) -> dict[str, Row]:
    other = Namespace(**vars(DataSource(str(project.folder / "more.jsonl"))))
    return {
        "data": ({"recipes/qa/data": [other]}, OF_QA),
        "mix": ({"recipes/joint/mix": {"qa": 1.0, "sts": 3.0}}, {"model:joint"}),
        "resample": (
            {"recipes/joint/mix": {"qa": 1.0, "sts": 1.0}, "recipes/joint/resample": "total"},
            {"model:joint"},
        ),
        "part": ({"recipes/joint/part": (1, 2)}, {"model:joint"}),
        "rows": ({"recipes/joint/rows": "probe"}, {"model:joint"}),
        "start": ({"recipes/late/start": "base"}, {"model:late"}),
        "loss": ({"recipes/qa/loss": Namespace(name="infonce", temperature=0.2)}, OF_QA),
        "seed": ({"recipes/joint/seed": 1}, {"model:joint"}),
        "max_steps": ({"recipes/qa/max_steps": 7}, {"model:qa"}),
        "batch_size": ({"recipes/qa/batch_size": 9}, {"model:qa"}),
        "lr": ({"recipes/qa/lr": 2e-3}, {"model:qa"}),
        "warmup": ({"recipes/qa/warmup": 0.2}, {"model:qa"}),
        "weight_decay": ({"recipes/qa/weight_decay": 0.1}, {"model:qa"}),
        "max_length": ({"recipes/qa/max_length": 9}, {"model:qa"}),
        "validate_every": ({"recipes/qa/validate_every": 2}, {"model:qa"}),
        "conflict_every": ({"recipes/joint/conflict_every": 2}, {"model:joint"}),
        "optimizer": ({"recipes/qa/optimizer": {"class_path": "torch.optim.SGD", "init_args": {}}}, {"model:qa"}),
        "schedule": (
            {"recipes/qa/schedule": {"class_path": "torch.optim.lr_scheduler.LinearLR", "init_args": {}}},
            {"model:qa"},
        ),
        "keep_best": ({"recipes/qa/keep_best": True, "recipes/qa/validate_every": 2}, {"model:qa"}),
        "stop_early": (
            {
                "recipes/qa/stop_early": Namespace(others_at_most=1.5, patience=None),
                "recipes/qa/validate_every": 2,
            },
            {"model:qa"},
        ),
        "keep": ({"recipes/qa/keep": Namespace(every=2)}, {"model:qa"}),
    }


def source_rows(project: Project) -> dict[str, Row | None]:
    qa, sts = "recipes/qa/data/0", "recipes/sts/data/0"
    return {
        "source": ({f"{qa}/source": str(project.folder / "elsewhere" / "moved.jsonl")}, set()),
        "task": None,  # of python_docs, and in the name of another data set there
        "config": None,  # of hub data sets
        "split": ({f"{qa}/split": "test"}, set()),
        "revision": None,  # of hub data sets
        "columns": ({f"{qa}/columns": {"anchor": "positive", "positive": "anchor"}}, OF_QA),
        "prompts": ({f"{qa}/prompts": {"anchor": "query : "}}, OF_QA),
        "limit": ({f"{qa}/limit": 120}, OF_QA),
        "min_score": ({f"{sts}/min_score": 0.1, "recipes/late/data/0/min_score": 0.1}, SPLITS - {"model:qa"}),
        "score_range": (
            {f"{sts}/score_range": (0.0, 2.0), "recipes/late/data/0/score_range": (0.0, 2.0)},
            SPLITS - {"model:qa"},
        ),
        "on_bad_row": ({f"{qa}/on_bad_row": "skip"}, set()),  # no row is bad
        "share": ({f"{qa}/share": 2.0}, {"model:qa"}),
        "loss": ({f"{qa}/loss": Namespace(name="infonce", temperature=0.2)}, OF_QA),
        "name": ({f"{qa}/name": "renamed"}, set()),
    }


MERGE_ROWS: dict[str, Row] = {
    "experts": ({"merges/around/experts": ["qa", "sts"]}, {"position:around"}),
    "start": ({"merges/around/start": "base"}, {"position:around"}),
    "weighting": ({"merges/mixture/weighting": "inverse_norm"}, {"merge:mixture"}),
    "method": ({"merges/around/method": of("modules.Ties", density=0.5)}, {"position:around"}),
    "scales": ({"merges/mixture/scales": [0.5, 1.5]}, {"merge:mixture"}),
    "temperatures": (
        {"merges/mixture/weighting": "lm_cocktail", "merges/mixture/temperatures": [1.0]},
        {"merge:mixture"},
    ),
    "granularity": ({"merges/around/granularity": "layer"}, {"position:around"}),
    "signed": ({"merges/around/signed": True}, {"position:around"}),
    "mu": ({"merges/around/mu": 0.1}, {"position:around"}),
    "pull": ({"merges/around/pull": 0.1}, {"position:around"}),
    "search": ({"merges/around/search": of("modules.CmaEs", sigma=0.1)}, {"position:around"}),
    "probe_size": ({"merges/around/probe_size": 24}, {"position:around"}),
    "task_weights": ({"merges/around/task_weights": {"sts": 1.0, "qa": 1.01}}, {"position:around"}),
    "max_steps": ({"merges/around/max_steps": 3}, {"position:around"}),
    "initial": ({"merges/around/initial": "by_bfgs"}, {"position:around"}),
}


def model_rows(project: Project) -> dict[str, Row]:
    experts = {name: Namespace(recipe=name, path=None) for name in ("sts", "qa")}
    return {
        "base": ({"model/base": str(project.folder / "other")}, OF_BASE),
        "experts": ({"model/experts": experts}, OF_EXPERTS | PROBED),  # and so is the order of the probe's data sets
        "method": (
            {"model/method": of("modules.MultiSlerp")},
            WITH_SCALE | {"merge:mixture"},
        ),
        "granularity": ({"model/granularity": "layer"}, WITH_SCALE),
        "signed": ({"model/signed": True}, POSITIONS),
        "mu": ({"model/mu": 0.1}, WITH_SCALE),
        "pull": ({"model/pull": 0.1}, POSITIONS),
        "search": ({"model/search": of("modules.Adam", lr=0.01)}, MINI_BATCH),
        "settled": ({"model/settled": 0.1}, POSITIONS),
        "pooling": ({"model/pooling": "mean"}, set()),  # the base says so itself
        "trust_remote_code": ({"model/trust_remote_code": True}, set()),  # no model has any
        "attn_implementation": ({"model/attn_implementation": "eager"}, OF_BASE | {"model:late"}),
        "allow_suspicious": ({"model/allow_suspicious": True}, set()),
        "settings_of": ({"model/settings_of": "base"}, POSITIONS | {"merge:average", "merge:mixture"}),
    }


PROBE_ROWS: dict[str, Row] = {
    "tasks": ({"probe/tasks": "only qa"}, SPLITS),
    "size": ({"probe/size": 48}, SPLITS),
    "validation_size": ({"probe/validation_size": 32}, SPLITS),
    "batch_size": ({"probe/batch_size": 9}, PROBED),
    "max_length": ({"probe/max_length": 9}, PROBED),
    "num_workers": ({"probe/num_workers": 1}, set()),
    "seed": ({"probe/seed": 1}, PROBED),
    "reserve": ({"probe/reserve": 48}, SPLITS),
    "task_weights": ({"probe/task_weights": {"qa": 3.0, "sts": 1.0}}, SPLITS),
    "loss": ({"probe/loss": Namespace(name="auto", temperature=0.2)}, PROBED),
}

MTEB_ROWS: dict[str, Row | None] = {
    "tasks": ({"mteb/tasks": ["STSBenchmark", "XQuADRetrieval"]}, SCORED),
    "types": None,  # these two only find tasks; see `test_scores_depend_on_the_tasks_not_on_how_they_are_found`
    "benchmark": None,
    "languages": ({"mteb/languages": ["eng"]}, set()),  # the task has no other
    "max_examples": ({"mteb/max_examples": 10}, SCORED),
    "max_corpus": ({"mteb/max_corpus": 10}, set()),  # the task has none
    "prompts": ({"mteb/prompts": {"STS": "query : "}}, SCORED),
    "every_n_epochs": ({"mteb/every_n_epochs": 1}, set()),
    "every_n_steps": ({"mteb/every_n_steps": 2}, set()),
    "at_start": ({"mteb/at_start": True}, set()),
    "at_end": ({"mteb/at_end": True}, set()),
    "data_root": ({"mteb/data_root": "copy"}, set()),
    "batch_size": ({"mteb/batch_size": 8}, set()),
    "precision": ({"mteb/precision": "bfloat16"}, SCORED),
}

STOP = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss"}}

TRAINER_ROWS: dict[str, tuple[Any, Names]] = {
    "accelerator": ("gpu", COMPUTED),
    "strategy": ("ddp", COMPUTED),
    "devices": (2, COMPUTED),
    "num_nodes": (2, COMPUTED),
    "precision": ("bf16-mixed", COMPUTED),
    "logger": (False, set()),
    "callbacks": ([STOP], TRAINED | POSITIONS),
    "fast_dev_run": (True, COMPUTED),
    "limit_train_batches": (3, TRAINED | MINI_BATCH),
    "limit_val_batches": (3, COMPUTED),
    "limit_test_batches": (3, set()),
    "limit_predict_batches": (3, set()),
    "overfit_batches": (3, COMPUTED - {"position:by_bfgs"}),
    "num_sanity_val_steps": (2, set()),
    "log_every_n_steps": (5, set()),
    "enable_checkpointing": (True, set()),
    "enable_progress_bar": (True, set()),
    "enable_model_summary": (True, set()),
    "accumulate_grad_batches": (2, TRAINED | MINI_BATCH),
    "gradient_clip_val": (1.0, TRAINED | MINI_BATCH),
    "gradient_clip_algorithm": ("value", TRAINED | MINI_BATCH),
    "deterministic": (True, COMPUTED),
    "benchmark": (True, COMPUTED),
    "inference_mode": (False, set()),
    "use_distributed_sampler": (False, set()),
    "profiler": ("simple", set()),
    "detect_anomaly": (True, set()),
    "barebones": (True, set()),
    "plugins": ([of("lightning.pytorch.plugins.MixedPrecision")], COMPUTED),
    "sync_batchnorm": (True, COMPUTED),
    "reload_dataloaders_every_n_epochs": (1, TRAINED | POSITIONS),
    "default_root_dir": ("elsewhere", set()),
    "enable_autolog_hparams": (False, set()),
    "model_registry": ("x", set()),
}

POSITION_ROWS: dict[str, tuple[Any, Names]] = {
    "max_epochs": (3, POSITIONS),
    "min_epochs": (2, POSITIONS),
    "max_steps": (5, POSITIONS),
    "min_steps": (2, POSITIONS),
    "max_time": ("00:00:10:00", POSITIONS),
    "check_val_every_n_epoch": (2, POSITIONS),
    "val_check_interval": (2, POSITIONS),
    "gradient_clip_val": (1.0, MINI_BATCH),
    "gradient_clip_algorithm": ("value", MINI_BATCH),
    "accumulate_grad_batches": (2, MINI_BATCH),
    "limit_train_batches": (3, MINI_BATCH),
}

STUDY_ROWS: dict[str, tuple[Any, Names]] = {
    "resampling": (
        Namespace(of="joint", weights=[[3, 1]], lengths=["total"]),
        {"model:joint 3:1 total", "probe:joint 3:1 total", "probe_score:joint 3:1 total", "scores:joint 3:1 total"},
    ),
    "seeds": ([1], set()),  # of rows that are chosen later
    "tasks": ({"sts": ["STSBenchmark"]}, set()),
    "averages": ({"both": ["STSBenchmark"]}, set()),
    "sizes": ([0.5], {"model:qa x 0.5", "model:sts x 0.5"}),
    "orders": (
        1,
        {"position:order qa, sts", "probe:order qa, sts", "probe_score:order qa, sts", "scores:order qa, sts"},
    ),
    "sensitivity": (
        Namespace(of="self_positioning", mu=[0.1], probe_size=[16], seeds=[3]),
        {f"{kind}:{name}" for kind in ("position", "probe") for name in ("mu 0.1", "probe 16", "batches 3")},
    ),
    "points": (3, set()),
    "grid": (3, set()),
    "max_examples": (5, set()),
    "max_corpus": (5, set()),
}

SECTION_ROWS: dict[str, tuple[Any, Names]] = {
    "seed_everything": (1, SPLITS),
    "run_dir": ("elsewhere", set()),
    "fresh": (True, set()),
    "dry_run": (True, set()),
    "quiet": (True, set()),
    "log_json": (True, set()),
    "baselines": (["base", "joint"], set()),
    "decontaminate": (True, set()),  # no row has a text of the task
}


def names_of(kind: Any) -> set[str]:
    """The fields of a dataclass, or the arguments of a class."""
    if hasattr(kind, "__dataclass_fields__"):
        return {field.name for field in fields(kind)}
    return set(inspect.signature(kind).parameters)


def check_table(keys: Keys, kind: Any, rows: dict[str, Any]) -> None:
    assert set(rows) == names_of(kind), f"give {kind.__name__} a row for each of its settings"
    check_rows(keys, [row for row in rows.values() if row is not None])


def check_rows(keys: Keys, rows: list[Row]) -> None:
    """One check a row; what makes nothing again is changed all at once."""
    without_effect: dict[str, Any] = {}
    for changes, roots in rows:
        if roots:
            keys.check(changes, roots)
        else:
            assert not without_effect.keys() & changes.keys()
            without_effect |= changes
    keys.check(without_effect, set())


def test_recipes(keys: Keys, project: Project) -> None:
    rows = [{"anchor": f"a cat {i}", "positive": f"dog {i}"} for i in range(150)]
    write_rows(project.folder / "more.jsonl", rows)
    check_table(keys, ExpertRecipe, expert_rows(project))


def test_data_sources(keys: Keys, project: Project) -> None:
    (project.folder / "elsewhere").mkdir()
    shutil.copy(project.folder / "qa.jsonl", project.folder / "elsewhere" / "moved.jsonl")
    check_table(keys, DataSource, source_rows(project))


def test_losses(keys: Keys) -> None:
    def rows(name: str, temperature: float) -> dict[str, Any]:
        return {"recipes/qa/loss": Namespace(name=name, temperature=temperature)}

    default = LossConfig()
    found = {"name": (rows("infonce", default.temperature), set()), "temperature": (rows(default.name, 0.3), OF_QA)}
    check_table(keys, LossConfig, found)  # the name is that of the only loss that fits


def test_merges(keys: Keys) -> None:
    check_table(keys, MergeRecipe, MERGE_ROWS)


def test_experts(keys: Keys, project: Project) -> None:
    given = {
        "model/experts/sts": Namespace(path=str(project.folder / "other"), recipe=None),
        "probe/tasks": sources(keys),
    }
    late = {"model/experts/sts": Namespace(path=None, recipe="late")}
    of_sts = {"probe:sts", "probe_score:sts", "scores:sts"}
    check_table(
        keys,
        Expert,
        {"path": (given, OF_EXPERTS | of_sts), "recipe": (late, SPLITS - {"model:qa"} | OF_EXPERTS | of_sts)},
    )


def sources(keys: Keys) -> list[Any]:
    """The data sets of the two experts, as ``probe.tasks``."""
    return [source for name in ("qa", "sts") for source in deepcopy(keys.config.recipes[name].data)]


def test_the_section_model(keys: Keys, project: Project) -> None:
    check_table(keys, MergeModule, model_rows(project))


def test_the_section_probe(keys: Keys) -> None:
    only_qa = {"tasks": ({"probe/tasks": sources(keys)[:1]}, SPLITS)}
    check_table(keys, ProbeDataModule, PROBE_ROWS | only_qa)


def test_the_section_mteb(keys: Keys, project: Project) -> None:
    copy = {"data_root": ({"mteb/data_root": str(project.folder / "copy")}, set())}
    check_table(keys, MtebCallback, MTEB_ROWS | copy)
    keys.check({"mteb/data_root": str(project.folder / "turned")}, SCORED)


def test_scores_depend_on_the_tasks_not_on_how_they_are_found(keys: Keys) -> None:
    run = keys.run()
    [task] = run.mteb.load()
    expected = {"tasks": [["STSBenchmark", task_fingerprint(task)]], "prompts": {}, "precision": "float32"}
    assert scoring_content(run.mteb) == expected


def test_the_section_trainer(keys: Keys) -> None:
    rows = {name: ({f"trainer/{name}": v}, roots) for name, (v, roots) in TRAINER_ROWS.items()}
    assert set(rows) == set(vars(keys.config.trainer)), "lengths are of the position, or a recipe's own"
    assert set(rows) <= names_of(Trainer)
    check_rows(keys, list(rows.values()))


def test_the_section_position(keys: Keys) -> None:
    rows = {name: ({f"position/{name}": v}, roots) for name, (v, roots) in POSITION_ROWS.items()}
    check_table(keys, PositionSettings, rows)


def test_a_callback_that_follows_scores_depends_on_how_they_are_taken(keys: Keys, project: Project) -> None:
    follows = STOP | {"init_args": {"monitor": "mteb/average"}}
    trainer = {"trainer/callbacks": [Namespace(**follows)], "mteb/every_n_epochs": 1}
    found = [
        keys.stages(trainer | changes)["position:self_positioning"].key
        for changes in ({}, {"mteb/every_n_steps": 2}, {"mteb/data_root": str(project.folder / "turned")}, {})
    ]
    assert len(set(found)) == 3 and found[0] == found[3]
    with pytest.raises(UserError, match="a callback follows MTEB scores, and none are taken in training"):
        keys.stages(trainer | {"mteb/every_n_epochs": None})


def test_the_section_study(keys: Keys) -> None:
    check_table(keys, StudyRecipe, {name: ({f"study/{name}": v}, roots) for name, (v, roots) in STUDY_ROWS.items()})


def test_a_recipe_without_experts(project: Project) -> None:
    content = project.content()
    del content["model"]["experts"]
    project.write(content | {"baselines": []})
    config = parse("fit", ["--config", str(project.recipe)])

    def keys(**changes: Any) -> dict[str, str]:
        changed = deepcopy(config)
        for path, value in changes.items():
            section, *parents, last = path.split("__")
            part = changed[section]
            for parent in parents:
                part = part[parent]
            part[last] = value
        models = RecipeRun(changed).models
        rows = {model.name: model.stage.key for model in models.baseline_models() if model.stage is not None}
        assert models.main.name == "sts" and set(rows) == {"qa", "sts"}
        return rows

    before = keys()
    assert keys(probe__num_workers=1, model__mu=0.5) == before
    for changes in ({"probe__validation_size": 16}, {"model__base": str(project.folder / "other")}):
        assert not set(keys(**changes).values()) & set(before.values()), changes
    assert {name for name, key in keys(recipes__qa__lr=0.5).items() if key != before[name]} == {"qa"}


def test_everything_else_in_a_recipe(keys: Keys) -> None:
    sections = {"model", "probe", "position", "trainer", "mteb", "recipes", "merges", "study"}
    assert set(SECTION_ROWS) == set(vars(keys.config)) - sections
    check_rows(keys, [({name: value}, roots) for name, (value, roots) in SECTION_ROWS.items()])


@pytest.mark.parametrize(
    ("name", "roots"),
    [("qa.jsonl", OF_QA), ("sts.jsonl", SPLITS - {"model:qa"})],
)
def test_data_files(keys: Keys, project: Project, name: str, roots: Names) -> None:
    file = project.folder / name
    before = file.read_text()
    file.write_text(before.replace("cat", "dog"))
    keys.check({}, roots)
    file.write_text(before)
    keys.check({}, set())


HARMLESS = ["README.md", "LICENSE", "lineage.json", "picture.png", "statistics/fisher.safetensors", "onnx/model.onnx"]
HARMLESS += [".cache/x.json", "config.json.bak", "config.json~", "pytorch_model.bin", "checkpoint-5/model.safetensors"]
ADDED = ["adapter_config.json", "adapter_model.safetensors", "modeling_own.py", "2_Dense/config.json", "merges.txt"]


@pytest.mark.parametrize(("folder", "roots"), [("base", OF_BASE), ("given", {"model:late"})])
def test_model_folders(keys: Keys, project: Project, folder: str, roots: Names) -> None:
    """Every file that is there, some that others have, and some that do not matter."""
    place = project.folder / folder
    there = [str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()]
    assert {"model.safetensors", "config.json", "tokenizer.json", "sentence_bert_config.json"} <= set(there)
    for name in [*there, *ADDED]:
        with changed(place / name):
            keys.check({}, roots)
    with ExitStack() as all_of_them:
        for name in HARMLESS:
            all_of_them.enter_context(changed(place / name))
        keys.check({}, set())


def other_content(path: Path, before: bytes | None) -> bytes:
    """Other than `before`: another tensor, key or module, or a space more."""
    if path.suffix == ".safetensors":
        return before[:-1] + bytes([before[-1] ^ 1]) if before else save({"a": torch.zeros(1)})
    if path.suffix == ".json":
        content = json.loads(before or b"{}")
        module = {"idx": 9, "name": "9", "path": "9_New", "type": "new.Module"}
        return json.dumps([*content, module] if isinstance(content, list) else content | {"new": 1}).encode()
    return (before or b"") + b" "


@contextmanager
def changed(path: Path) -> Iterator[None]:
    """A file that says something else, or is there where it was not."""
    before = path.read_bytes() if path.is_file() else None
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(other_content(path, before))
    yield
    if before is None:
        path.unlink()
    else:
        path.write_bytes(before)
