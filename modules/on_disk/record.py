"""The records in a merged folder: ``merge.json`` and a model card."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from modules.json_files import write_json
from modules.model_card.card import write_card
from modules.model_card.finding import Finding
from modules.model_card.merge_recipe import merge_recipe

FILE = "merge.json"

RECIPE = "Recipe"
"""The section of the card that says what makes the model; a merge has one of its own where none is given."""


def write_records(folder: Path, name: str, record: dict[str, Any], finding: Finding | None = None) -> dict[str, Any]:
    """Write ``merge.json`` and the model card of a merged model.

    Args:
        folder: of the merged model.
        name: of the model, where it has none on the hub.
        record: the content of ``merge.json``.
        finding: how its position was learned; None: it was given.

    Returns:
        The content of ``merge.json``.
    """
    finding = finding or Finding()
    if finding.record:
        record = record | {"learned": dict(finding.record)}
    write_json(folder / FILE, record)
    if RECIPE not in finding.sections:
        recipe = f"`python -m lightning_app merge --config FILE` reads:\n\n```yaml\n{merge_recipe(record)}```"
        finding = replace(finding, sections={**finding.sections, RECIPE: recipe})
    write_card(folder, name, record, finding)
    return record
