"""Descriptions of models, from the files of their folders; no weights are read."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.checkpoint_layout import Layout, read_layout
from modules.checkpoints.common_base import recorded_bases
from modules.checkpoints.lora import CONFIG, is_adapter
from modules.checkpoints.st_folder import backbone_folder, pooling_modes, st_modules
from modules.checkpoints.task_vector_files import open_models
from modules.checkpoints.text_settings import text_settings
from modules.compatibility.agree import agree
from modules.encoding.prompts import describe_prompts
from modules.errors import UserError
from modules.json_files import read_json

DIMENSIONS = ("out_features", "word_embedding_dimension", "embedding_dimension")
"""Keys of the configs of sentence-transformers modules that say how long an embedding is."""


@dataclass(frozen=True)
class ModelSummary:
    """A model in a few words.

    Args:
        parts: of the description.
        base: the model that it records as the one it was trained from; None: it records none.
    """

    parts: tuple[str, ...]
    base: str | None

    def __str__(self) -> str:
        """Return the description in a line."""
        return ", ".join([*self.parts, f"trained from {self.base}" if self.base else "records no base"])

    @classmethod
    def of(cls, model: str) -> "ModelSummary":
        """Describe a model.

        Args:
            model: folder or hub name.

        Raises:
            UserError: there is no such model, or a file of it is damaged.
        """
        folder = find_base_model(model)
        base = next(iter(recorded_bases(model)), None)
        if is_adapter(folder):
            return cls((f"LoRA adapter of rank {read_json(folder / CONFIG).get('r')}",), base)
        with closing(read_layout(folder)) as layout:
            size = sum(weight.info.size for weight in layout.weights.values())
            parts = (
                _architecture(folder),
                f"{size / 1e6:.1f} M parameters" if size >= 1e6 else f"{size:,} parameters",
                *_dimension(folder, layout),
            )
        settings = text_settings(folder, folder)
        length = settings["max_length"]
        limit = f"at most {length} tokens" if length else "texts of any length"
        return cls((*parts, limit, describe_prompts(settings["prompts"])), base)


def is_static(model: str) -> bool:
    """Return whether a model looks its tokens up in a table, and has no layers above it."""
    return any(kind == "StaticEmbedding" for kind, _ in st_modules(find_base_model(model)))


def settings_needed(base: str, experts: dict[str, str]) -> str | None:
    """Return whose prompts and longest text a merge has to be told to take; None: the models agree.

    Args:
        base: folder or hub name of theta_0.
        experts: name to folder or hub name.

    Raises:
        UserError: the models cannot be merged.
    """
    start, folders = find_base_model(base), {name: find_base_model(model) for name, model in experts.items()}
    open_models(start, folders, lambda line: None).close()
    try:
        agree(start, folders, None, lambda line: None)
    except UserError:
        agree(start, folders, "base", lambda line: None)  # raises what no choice of settings can mend
        return "base"
    return None


def _architecture(folder: Path) -> str:
    """Return the backbone's class, or the first module's, and what follows it."""
    kinds: list[str] = [kind for kind, _ in st_modules(folder)]
    config: dict[str, Any] = read_json(backbone_folder(folder) / "config.json", {})
    backbone = next(iter(config.get("architectures") or []), config.get("model_type"))
    named = [str(backbone)] if backbone else kinds[:1]
    poolings = [read_json(path / "config.json", {}) for kind, path in st_modules(folder) if kind == "Pooling"]
    named += [f"{'+'.join(pooling_modes(pooling))} pooling" for pooling in poolings]
    return ", ".join([*named, *(kind for kind in kinds[1:] if kind not in ("Pooling", "Normalize"))])


def _dimension(folder: Path, layout: Layout) -> tuple[str, ...]:
    configs = [
        read_json(path / "config.json", {}) for kind, path in reversed(st_modules(folder)) if kind != "Transformer"
    ]
    told = [config[key] for config in configs for key in DIMENSIONS if key in config]
    backbone = read_json(backbone_folder(folder) / "config.json", {})
    told += [backbone[key] for key in ("hidden_size", "d_model", "dim") if key in backbone]
    told += [weight.info.shape[-1] for name, weight in layout.weights.items() if name.startswith("embedding")]
    return (f"{told[0]} dimensions",) if told else ()
