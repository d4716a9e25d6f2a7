"""A section ``data`` in a recipe: of one model that has no name, or the probe of a merge."""

from typing import Any

from modules.errors import UserError

NAME = "expert"
"""The recipe of the model that has no name."""

OF_ROWS = ("batch_size", "max_length")
OF_TRAINING = ("lr", "warmup", "weight_decay")


def without_data(content: dict[str, Any], where: str, remarks: list[str]) -> dict[str, Any]:
    """Return the sections of a recipe with what its section ``data`` says in the sections that it is about.

    Beside ``recipes`` or ``model.experts`` it is the section ``probe``. Alone with ``model`` it has the data sets
    (``tasks``) of one model, which is a recipe of its own then, with ``lr`` and the like of ``model`` and the
    ``max_steps`` of ``trainer``.

    Args:
        content: section to what it says.
        where: the section stands, for messages.
        remarks: gets a line for what was taken to mean another thing than it says.

    Raises:
        UserError: ``probe`` is given as well, or there are no data sets.
    """
    data = content.get("data")
    if not isinstance(data, dict):
        return content
    if "probe" in content:
        raise UserError(f"{where}: data is another name of the section probe, which is given as well; keep that one")
    others = {name: section for name, section in content.items() if name != "data"}
    model = content.get("model") or {}
    if "recipes" in content or "experts" in model:
        remarks.append("data: taken as the section probe; in recipes it is the list of data sets")
        return others | {"probe": data}
    if "tasks" not in data:
        raise UserError(f"{where}: data.tasks is needed, the data sets of the model; or give recipes")
    trainer = dict(content.get("trainer") or {})
    recipe = {"data": data["tasks"]} | {key: data[key] for key in OF_ROWS if key in data}
    recipe |= {key: model[key] for key in OF_TRAINING if key in model}
    if "max_steps" in trainer:
        recipe["max_steps"] = trainer.pop("max_steps")
    remarks.append(f"data: of one model, taken as recipes.{NAME}")
    shared = {key: value for key, value in model.items() if key not in OF_TRAINING}
    probe = {key: value for key, value in data.items() if key not in ("tasks", *OF_ROWS)}
    return others | {"model": shared, "recipes": {NAME: recipe}, "probe": probe, "trainer": trainer}
