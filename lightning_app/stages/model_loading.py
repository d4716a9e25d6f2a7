"""The loading of all models of a run, as the recipe says once."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_app.recipe.recipe_settings import RecipeSettings
from modules import TextEncoder
from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.identity import identity
from modules.checkpoints.st_folder import is_st_folder


@dataclass(frozen=True)
class ModelLoading:
    """Options that load a model, the same for the base, experts, starts, statistics, probes and scores.

    Args:
        pooling: of plain transformers folders; sentence-transformers folders say their own.
        trust_remote_code: let transformers run code that comes with a model.
        base: the model that may not pool otherwise than `pooling` says, even if it says so itself.
        attn_implementation: of transformers: ``sdpa``, ``eager``, ``flash_attention_2``; None: transformers' default.
    """

    pooling: str | None = None
    trust_remote_code: bool = False
    base: str | None = None
    attn_implementation: str | None = None

    @classmethod
    def of(cls, settings: RecipeSettings) -> "ModelLoading":
        """Return how a recipe's models are loaded."""
        told = {key: settings.options[key] for key in ("pooling", "trust_remote_code", "attn_implementation")}
        return cls(**told, base=settings.base)

    def load(self, model: str) -> TextEncoder:
        """Load a folder or a hub name.

        Raises:
            UserError: it cannot be loaded, or it is the base and pools otherwise.
        """
        return TextEncoder.load(model, **self.options(model))

    def options(self, model: str) -> dict[str, Any]:
        """Return the arguments of whatever loads this model."""
        return {
            "pooling": self.pooling if model == self.base or is_plain(model) else None,
            "trust_remote_code": self.trust_remote_code,
            "attn_implementation": self.attn_implementation,
        }

    def identity(self, model: str) -> dict[str, Any]:
        """Return what a stage's key must hold of a model that is given: its whole identity, and how it is read."""
        found: dict[str, Any] = asdict(identity(model))
        if is_plain(model):
            found["pooling"] = self.pooling
        if self.trust_remote_code and any(find_base_model(model).rglob("*.py")):
            found["trust_remote_code"] = True
        if self.attn_implementation is not None:
            found["attn_implementation"] = self.attn_implementation
        return found


def is_plain(model: str | Path) -> bool:
    """Return whether a model is a transformers checkpoint that does not say how it pools."""
    return not is_st_folder(find_base_model(str(model)))
