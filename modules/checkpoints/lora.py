"""LoRA adapters in PEFT's layout: read as task vectors, and written from merged task vectors.

An adapter is the task vector ``s B A`` on the weight of every module that it adapts, zero elsewhere. A merge takes the
products: the factors of different adapters have nothing to do with each other.

Shapes: r is the rank of a module's adapter.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from modules.checkpoints.checkpoint_io import TensorFile
from modules.checkpoints.checkpoint_layout import HEADS, WRAPPERS, Weight, refuse_keys
from modules.errors import UserError
from modules.json_files import read_json, shown

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."

FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(\.weight)?$")

EMBEDDING = re.compile(r"(embeddings?|embed_tokens|wte|wpe|shared|relative_attention_bias)\.weight$")
"""Weights of embeddings, which PEFT adapts the other way round."""

LEAVES_THE_BASE = ("gaussian", "eva", "orthogonal", "mica")
"""Initialisations, true and false aside, that change no weight of the base: the adapter is a task vector against it."""

KNOWN = frozenset(
    {
        # where it comes from
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"),
        # which weights it adapts, which its keys say
        *("exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save", "target_modules", "bias"),
        # how its products are scaled and laid out, which is read
        *("alpha_pattern", "fan_in_fan_out", "lora_alpha", "r", "rank_pattern", "use_rslora"),
        # how it was trained; `megatron_core` and `qalora_group_size` count only with what is refused
        *("ensure_weight_tying", "eva_config", "lora_dropout", "megatron_core", "qalora_group_size", "runtime_config"),
    }
)
"""Settings of an adapter with which it is a task vector, whatever their values."""


class Factors(NamedTuple):
    """The place of the factors of one module's adapter.

    Args:
        a: key of ``[r, in]``.
        b: key of ``[out, r]``.
        scaling: factor of their product.
        transposed: whether the weight is the transposed product, as in an embedding.
    """

    a: str
    b: str
    scaling: float
    transposed: bool


class Adapter:
    """A LoRA adapter as a task vector.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: the weights that it adapts, by canonical name.
        who: how messages call the adapter.

    Raises:
        UserError: the adapter is no LoRA, has parts that are no difference of weights, or does not fit the base.
    """

    def __init__(self, folder: Path, base: Mapping[str, Weight], who: str) -> None:
        if not (folder / WEIGHTS).is_file():
            raise UserError(f"{who}: {WEIGHTS} is missing beside {CONFIG}; save the adapter as safetensors")
        config = read_json(folder / CONFIG)
        _refuse_unsupported(config, who)
        self._file = TensorFile(folder / WEIGHTS)
        self._factors: dict[str, Factors] = {}
        self._whole: dict[str, str] = {}  # trained as they are: biases and modules_to_save
        strangers = []
        for key in self._file.tensors:
            match = FACTOR.match(key)
            module = key.removeprefix(PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
            name = _base_name(f"{match[1].removeprefix(PREFIX)}.weight" if match else module, base)
            if name is None:
                strangers += [] if HEADS.match(module.removeprefix("model.")) else [key]
            elif match is None:
                self._whole[name] = key
            elif match[3] == "A":
                self._factors[name] = self._read_factors(key, match, config)
        refuse_keys(f"{who} has keys that are no LoRA factors on the base's weights", strangers)
        self._refuse_shapes(base, who)

    @property
    def files(self) -> list[TensorFile]:
        """The adapter's only file of weights."""
        return [self._file]

    def _read_factors(self, key: str, match: re.Match[str], config: Mapping[str, Any]) -> Factors:
        """Return the factors that belong to the key of an ``A``."""
        b = f"{match[1]}.lora_{match[2] or ''}B{match[4] or ''}"
        rank, module = self._file.tensors[key].shape[0], match[1].removeprefix(PREFIX)
        alpha = _pattern(config.get("alpha_pattern") or {}, module, config.get("lora_alpha", 8))
        scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        return Factors(key, b, scaling, bool(match[2]) or bool(config.get("fan_in_fan_out")))

    def _refuse_shapes(self, base: Mapping[str, Weight], who: str) -> None:
        bad = [name for name, key in self._whole.items() if self._file.tensors[key].shape != base[name].info.shape]
        for name, factors in self._factors.items():
            a, other = self._file.tensors[factors.a].shape, self._file.tensors.get(factors.b)
            b = other.shape if other else ()
            shape = (b[0], a[1]) if len(a) == len(b) == 2 and a[0] == b[1] else None
            if shape is None or (shape[::-1] if factors.transposed else shape) != base[name].info.shape:
                bad.append(name)
        refuse_keys(f"{who} does not fit the base's shapes", bad)

    def read(self, name: str, base: Callable[[], Tensor], out: Tensor) -> None:
        """Write the task vector of one tensor.

        Args:
            name: canonical.
            base: gives the tensor in theta_0.
            out: of its shape, float32.
        """
        if name in self._whole:
            self._file.read(self._whole[name], out).sub_(base())
        elif name in self._factors:
            factors = self._factors[name]
            a, b = self._file.read(factors.a).float(), self._file.read(factors.b).float()
            torch.mm(b, a, out=out.T if factors.transposed else out)
            out.mul_(factors.scaling)
        else:
            out.zero_()


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter and not a whole model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def _refuse_unsupported(config: Mapping[str, Any], who: str) -> None:
    """Refuse every setting, of whatever version, with which an adapter is not known to be a task vector."""
    kind, start = config.get("peft_type", "LORA"), config.get("init_lora_weights", True)
    if kind != "LORA":
        raise UserError(f"{who} is an adapter of the kind {kind}; LORA is supported, merge it into its base first")
    if start is not None and not isinstance(start, bool) and str(start).lower() not in LEAVES_THE_BASE:
        raise UserError(
            f"{who} starts from init_lora_weights {start!r}, which may have changed the base: convert it to plain LoRA "
            "first (PEFT's path_initial_model_for_weight_conversion)"
        )
    for key in sorted(config.keys() - KNOWN - {"peft_type", "init_lora_weights"}):
        if config[key]:  # null, false and empty: not used
            raise UserError(
                f"{who} is an adapter with {key} {shown(config[key])}, which is not known to be a difference of "
                "weights; merge it into its base first"
            )


def _pattern(patterns: Mapping[str, float], module: str, default: float) -> float:
    """Return the value of the first pattern that a module's name ends with, which is PEFT's rule."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _base_name(name: str, base: Mapping[str, Weight]) -> str | None:
    """Return the canonical name of an adapter's key, whatever wrappers PEFT has wrapped; None where it has none."""
    while name not in base:
        prefix = next((p for p in WRAPPERS if name.startswith(p)), None)
        if prefix is None:
            return None
        name = name.removeprefix(prefix)
    return name


class AdapterWriter:
    """Collects merged task vectors as one adapter, by truncated singular value decomposition.

    Args:
        rank: of every module.
        dtype: of the factors.
    """

    def __init__(self, rank: int, dtype: torch.dtype = torch.float32) -> None:
        self._rank, self._dtype = rank, dtype
        self._tensors: dict[str, Tensor] = {}
        self._modules: list[str] = []
        self._squares: dict[str, tuple[float, float]] = {}

    def add(self, name: str, vector: Tensor) -> None:
        """Decompose the merged task vector of one weight.

        Args:
            name: canonical.
            vector: ``[out, in]``, or ``[tokens, dim]`` of an embedding.
        """
        embedding = EMBEDDING.search(name) is not None
        product = vector.T if embedding else vector
        u, s, v = torch.linalg.svd(product, full_matrices=False)
        # Split evenly; a matrix of smaller rank is filled up with zeros, so that one rank holds for all.
        root = s[: self._rank].sqrt()
        b, a = u[:, : self._rank] * root, root[:, None] * v[: self._rank]
        missing = self._rank - len(root)
        a, b = torch.nn.functional.pad(a, (0, 0, 0, missing)), torch.nn.functional.pad(b, (0, missing))
        a, b = a.to(self._dtype), b.to(self._dtype)
        error = product - b.float() @ a.float()
        self._squares[name] = float(error.double().square().sum()), float(vector.double().square().sum())
        module = name.removesuffix(".weight")
        kind, end = ("lora_embedding_", "") if embedding else ("lora_", ".weight")
        self._modules.append(module)
        self._tensors[f"{PREFIX}{module}.{kind}A{end}"] = a.contiguous()
        self._tensors[f"{PREFIX}{module}.{kind}B{end}"] = b.contiguous()

    def write(self, folder: Path, base: str) -> dict[str, Any]:
        """Write the adapter.

        Args:
            folder: an existing one.
            base: folder or hub name of the model that it adapts.

        Returns:
            ``rank``; ``error``, the relative Frobenius error of truncation and rounding over all tensors; ``worst``,
            the tensor of the largest error, and ``worst_error``, its error.

        Raises:
            UserError: no tensor was added.
        """
        if not self._tensors:
            raise UserError("every expert equals the base: there is nothing to merge")
        save_file(self._tensors, folder / WEIGHTS, metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            "task_type": "FEATURE_EXTRACTION",
            "base_model_name_or_path": base,
            "r": self._rank,
            "lora_alpha": self._rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "target_modules": self._modules,
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        errors = {name: math.sqrt(lost / whole) for name, (lost, whole) in self._squares.items()}
        worst = max(errors, key=lambda name: errors[name])
        lost, whole = (sum(column) for column in zip(*self._squares.values(), strict=True))
        return {"rank": self._rank, "error": math.sqrt(lost / whole), "worst": worst, "worst_error": errors[worst]}
