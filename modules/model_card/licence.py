"""The licence of a model, as its card states it."""

from pathlib import Path

import yaml

CARD = "README.md"

KEYS = ("license", "license_name", "license_link")
"""Keys of the front matter of a card, as huggingface_hub's `ModelCardData` has them."""


def stated_licence(folder: Path) -> dict[str, str]:
    """Return the keys on the licence in the card of a model folder; empty where it has no card, or states none.

    A card whose front matter cannot be read states none.
    """
    from huggingface_hub.repocard import metadata_load  # here, because it takes a while to import

    if not (folder / CARD).is_file():
        return {}
    try:
        stated = metadata_load(folder / CARD) or {}
    except (ValueError, yaml.YAMLError):
        return {}
    return {key: str(stated[key]) for key in KEYS if stated.get(key)}
