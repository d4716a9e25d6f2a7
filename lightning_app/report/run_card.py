"""The records beside the model of a finished ``fit``: ``merge.json`` and its model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from datamodules import SplitTask
from lightning_app.report.learned_report import MTEB_LEGEND, THIS_MODEL
from lightning_app.report.position_path import read_ending
from lightning_app.report.rows_table import HEADER, rows_cells
from lightning_app.report.scores_table import scores_table
from lightning_app.stages.fixed_merge import FixedMerge
from lightning_app.stages.learn import POSITION, Learn
from lightning_app.stages.model import Model
from lightning_app.stages.stage_graph import StageGraph
from lightning_app.stages.train import Train
from modules.checkpoints.base_model import find_base_model, without_path
from modules.checkpoints.identity import weights_identity
from modules.checkpoints.text_settings import text_settings
from modules.json_files import read_json
from modules.markdown import markdown_table
from modules.merging.describe import describe
from modules.model_card.card import write_card
from modules.model_card.finding import Finding
from modules.model_card.licence import stated_licence
from modules.on_disk.record import RECIPE, write_records

LEFT_OUT = ("trainer", "study", "run_dir", "fresh")
"""Sections and keys of a recipe that say where and on what it runs."""


def write_run_records(model: Model, graph: StageGraph, name: str, finding: Finding) -> None:
    """Write the model card of a run's model, and of a merge ``merge.json``, into its folder.

    Args:
        model: trained, or merged at a learned position, by a stage that has run.
        graph: has the results.
        name: of the model.
        finding: what the card says beside what it is made of.
    """
    record, folder = _record(model, graph), Path(model.folder(graph))
    if "experts" in record:
        write_records(folder, name, record, finding)
    else:
        write_card(folder, name, record, finding)


def _record(model: Model, graph: StageGraph) -> dict[str, Any]:
    """Return what a run's model is made of, as ``merge.json`` has it."""
    folder = Path(model.folder(graph))
    settings = {"settings": text_settings(folder, folder)}
    if isinstance(model.stage, Learn):
        return _merge_record(model.stage, graph) | settings
    assert isinstance(model.stage, Train)
    return {"base": _part(model.stage.start, graph), "trained_on": _names(model.stage.tasks)} | settings


def _merge_record(stage: Learn, graph: StageGraph) -> dict[str, Any]:
    merge, found = stage.merge, read_json(graph.folder(stage) / POSITION)
    position = found["mean_position"]
    return {
        "base": _part(merge.start, graph),
        "experts": {name: _part(expert, graph) for name, expert in merge.experts},
        "method": describe(merge.method),
        "a": {name: position[f"a/{name}"] for name in merge.names},
        "scale": position["scale"],
        "granularity": merge.granularity,
        "coefficients": found["coefficients"],
        "learned": {key: found[key] for key in ("objective", "ending")} | {"search": describe(stage.search)},
    }


def _part(model: Model, graph: StageGraph) -> dict[str, Any]:
    """Return a model that another is made of: its place, or how the run has made it, and its identity."""
    folder = find_base_model(model.folder(graph))
    about = {"sha256": weights_identity(folder), **stated_licence(folder)}
    if model.path is not None:
        return {"path": model.path, **about}
    made = {"trained_on": _names(model.stage.tasks)} if isinstance(model.stage, Train) else {}
    if isinstance(model.stage, Learn | FixedMerge):
        made = {"merged_from": model.stage.merge.names}
    return made | {"from": _origin(model)} | about


def _origin(model: Model) -> str:
    """Return the given model that a model comes from."""
    if model.path is not None:
        return model.path
    assert isinstance(model.stage, Train | Learn | FixedMerge)
    return _origin(model.stage.start if isinstance(model.stage, Train) else model.stage.merge.start)


def _names(tasks: Sequence[SplitTask]) -> list[str]:
    return [task.name for task in tasks]


def run_sections(
    model: Model,
    graph: StageGraph,
    data: Sequence[SplitTask],
    scores: Mapping[str, Mapping[str, float]],
    recipe: str,
) -> dict[str, str]:
    """Return the sections of the model card that only a run can fill: heading to Markdown.

    Args:
        model: of the run.
        graph: has the results.
        data: the data sets.
        scores: model to MTEB task to score; empty if there are no tasks.
        recipe: as it was run, in YAML.
    """
    rows = markdown_table(HEADER, list(map(rows_cells, data)))
    if isinstance(model.stage, Learn):
        rows += f"\n\nThe position was learned on the probe rows; the search {read_ending(graph.folder(model.stage))}."
    mteb = (
        {"MTEB": f"{THIS_MODEL.format(model.name)} {MTEB_LEGEND}\n\n{scores_table(scores).markdown()}"}
        if scores
        else {}
    )
    return {"Data": rows, **mteb, RECIPE: _recipe_text(recipe)}


def _recipe_text(recipe: str) -> str:
    """Return a recipe that a reader can unfold.

    Left out are the keys that say where and on what it runs, which may hold the keys of loggers, and what is empty;
    names stand in the place of paths.
    """
    told = _told({key: value for key, value in yaml.safe_load(recipe).items() if key not in LEFT_OUT})
    text = yaml.safe_dump(told, sort_keys=False, allow_unicode=True)
    return f"<details><summary>the recipe of <code>fit</code></summary>\n\n```yaml\n{text}```\n\n</details>"


def _told(value: Any) -> Any:
    """Return a part of a recipe without what is empty, and with names in the place of paths."""
    if isinstance(value, dict):
        parts = {key: part if key == "prompts" else _told(part) for key, part in value.items()}
        return {key: part for key, part in parts.items() if part not in (None, "", {}, [])}
    if isinstance(value, list):
        return [_told(part) for part in value]
    return without_path(value) if isinstance(value, str) else value
