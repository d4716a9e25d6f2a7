"""A model folder as a sentence-transformers pipeline: nothing missing, nothing guessed, no code run without leave."""

import inspect
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING

from modules.checkpoints.checkpoint_layout import POOLER, canonical_names, read_layout
from modules.checkpoints.st_folder import backbone_folder, is_st_folder, st_modules
from modules.errors import UserError
from modules.json_files import read_json

TOKENIZERS = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken", "tokenization_*.py")
"""Patterns of files; a transformers folder with a tokenizer has at least one of them."""


def load_pipeline(
    folder: Path,
    *,
    pooling: str | None = None,
    trust_remote_code: bool = False,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
) -> SentenceTransformer:
    """Load the pipeline that ``SentenceTransformer(folder)`` loads, on the CPU, in evaluation mode.

    Args:
        folder: of a sentence-transformers model or a transformers checkpoint, with weights as safetensors.
        pooling: of a transformers checkpoint, by its sentence-transformers name; None: sentence-transformers' default
            (``lasttoken`` for causal language models, else ``mean``).
        trust_remote_code: let transformers and sentence-transformers run the model's own code.
        dtype: of the weights.
        attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2``; None: transformers' default.

    Raises:
        UserError: the folder has a module or a file that cannot be loaded, lacks weights or a tokenizer, says another
            pooling, or has weights that are not finite.
    """
    _refuse_modules(folder, trust_remote_code)
    with closing(read_layout(folder)) as layout:  # all in the folder: transformers would follow an index out of it
        stored = layout.weights.keys()
    _refuse_without_tokenizer(folder)
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if not any(name.startswith(POOLER) for name in stored) and _adds_a_pooler(folder):
        options["add_pooling_layer"] = False  # a random one enters no embedding, but would be trained, merged and saved
    pipeline = _load(folder, options, trust_remote_code)
    missing = [name for name in parameter_places(pipeline, folder) if name not in stored]
    if missing:  # transformers has put random numbers in their place
        some = ", ".join(missing[:4])
        raise UserError(f"{folder}: weights are missing ({len(missing)}), or the files call them otherwise: {some}")
    if pooling is not None:
        _pool_by(pipeline, pooling, folder)
    refuse_not_finite(pipeline, folder)
    for module in pipeline:
        if not isinstance(module, Transformer):  # which has its dtype; the others come as they were saved
            module.to(dtype)
    return pipeline.eval()


def refuse_not_finite(module: nn.Module, where: str | Path) -> None:
    """Refuse parameters with NaN or infinite entries.

    Args:
        module: has the parameters.
        where: names the module in the message.

    Raises:
        UserError: there are such parameters; the message lists the first of them.
    """
    bad = [name for name, weight in module.named_parameters() if not torch.isfinite(weight).all()]
    if bad:
        raise UserError(f"{where}: NaN or infinite weights in {len(bad)} tensors: {', '.join(bad[:5])}")


def _refuse_without_tokenizer(folder: Path) -> None:
    first = backbone_folder(folder)
    if read_json(first / "config.json") is not None and not any(f for kind in TOKENIZERS for f in first.glob(kind)):
        raise UserError(f"{first} has no tokenizer, for which transformers would make an empty one; save it beside")


def _refuse_modules(folder: Path, trust_remote_code: bool) -> None:
    """Refuse modules that are replaced in silence, or that cannot be trained or merged as one model."""
    modules = st_modules(folder)
    if any(kind in ("Router", "Asym") for kind, _ in modules):
        raise UserError(f"{folder}/modules.json: a Router has several encoders; give the folder of one of them")
    for path in (path for kind, path in modules if kind == "Dense" and not trust_remote_code):
        activation = read_json(path / "config.json", {}).get("activation_function", "torch.nn")
        if not activation.startswith("torch."):
            raise UserError(
                f"{path}/config.json: the activation {activation} is code outside torch, in whose place the library "
                "would take tanh; read it, then allow it with trust_remote_code"
            )


def _adds_a_pooler(folder: Path) -> bool:
    """Return whether transformers puts a pooler on the model, of random numbers where the checkpoint has none."""
    kind = read_json(backbone_folder(folder) / "config.json", {}).get("model_type")
    if kind not in CONFIG_MAPPING or CONFIG_MAPPING[kind] not in MODEL_MAPPING:
        return False
    made: Any = MODEL_MAPPING[CONFIG_MAPPING[kind]]
    return not isinstance(made, tuple) and "add_pooling_layer" in inspect.signature(made).parameters


def _load(folder: Path, options: dict[str, Any], trust_remote_code: bool) -> SentenceTransformer:
    try:
        return SentenceTransformer(
            str(folder),
            device="cpu",
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            model_kwargs=dict(options),
        )
    except UserError:
        raise
    except Exception as error:  # every library below raises its own kinds
        if "trust_remote_code" in str(error):
            raise UserError(f"{folder} has code of its own; read it, then allow it with trust_remote_code") from error
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder} cannot be loaded: {first}") from error


def parameter_places(pipeline: SentenceTransformer, folder: Path) -> dict[str, str]:
    """Return the place of each parameter in a pipeline, by canonical name.

    Args:
        pipeline: of sentence-transformers.
        folder: that it was loaded from.

    Returns:
        The transformers model's own name of a parameter, or ``2_Dense/linear.weight`` for a later module's, as
        `modules.checkpoints.checkpoint_layout` names it in the folder's files, to its name in the pipeline.
    """
    (name, first), *later = pipeline.named_children()
    inner, start = (first.model, f"{name}.model.") if isinstance(first, Transformer) else (first, f"{name}.")
    own = canonical_names(parameter for parameter, _ in inner.named_parameters())
    places = {canonical: start + parameter for parameter, canonical in own.items()}
    parts = [path.relative_to(folder).as_posix() for _, path in st_modules(folder)[1:]]
    for (name, module), part in zip(later, parts, strict=False):  # a plain checkpoint's pooling has no folder
        places |= {f"{part}/{parameter}": f"{name}.{parameter}" for parameter, _ in module.named_parameters()}
    return places


def _pool_by(pipeline: SentenceTransformer, pooling: str, folder: Path) -> None:
    """Set the pooling of a transformers checkpoint; check the pooling of a sentence-transformers folder.

    Raises:
        UserError: there is no such pooling, or the folder says another.
    """
    own = next((module for module in pipeline if isinstance(module, Pooling)), None)
    if pooling not in Pooling.POOLING_MODES:
        raise UserError(f"pooling '{pooling}' is unknown: use one of {', '.join(Pooling.POOLING_MODES)}")
    if is_st_folder(folder):
        said = own.pooling_mode if own is not None else "no Pooling module"
        if said != pooling:
            raise UserError(f"{folder} pools by {said}, not by {pooling}: leave the pooling out")
    elif own is not None:
        first = pipeline[0]
        assert isinstance(first, Transformer)
        pipeline[1] = Pooling(first.get_embedding_dimension(), pooling)
