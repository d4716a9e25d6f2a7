"""The model that several models were trained from, where they record one."""

from collections.abc import Iterator, Mapping

from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.lineage import FILE
from modules.checkpoints.lora import CONFIG
from modules.errors import UserError
from modules.json_files import read_json


def common_base(models: Mapping[str, str]) -> str:
    """Return the nearest model that all models record as an ancestor: its folder or hub name.

    Args:
        models: name to folder or hub name.

    Raises:
        UserError: they record none in common, or a model is missing.
    """
    recorded = {name: list(recorded_bases(model)) for name, model in models.items()}
    first, *others = recorded.values()
    for base in first:
        if all(base in bases for bases in others):
            return base
    said = ", ".join(f"{name} {bases[0] if bases else 'none'}" for name, bases in recorded.items())
    raise UserError(f"--base is missing, and the experts record no common base ({said}): name the model they come from")


def recorded_bases(model: str) -> Iterator[str]:
    """Yield the ancestors that a model records, nearest first: those of its lineage, or the base of an adapter.

    Args:
        model: folder or hub name.

    Raises:
        UserError: it is missing.
    """
    seen = {model}
    base = _recorded(model)
    while base is not None and base not in seen:
        yield base
        seen.add(base)
        try:
            base = _recorded(base)
        except UserError:  # an ancestor that has moved: what is known ends here
            return


def _recorded(model: str) -> str | None:
    folder = find_base_model(model)
    of_lineage, of_adapter = read_json(folder / FILE, {}), read_json(folder / CONFIG, {})
    base = of_lineage.get("base") or of_adapter.get("base_model_name_or_path")
    return str(base) if base else None
