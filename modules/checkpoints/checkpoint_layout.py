"""Canonical names of a checkpoint's tensors, by which checkpoints are matched whatever wrapper saved them."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from modules.checkpoints.checkpoint_io import MAX_SHARD_BYTES, CheckpointWriter, TensorFile, TensorInfo, open_weights
from modules.checkpoints.st_folder import backbone_folder, st_modules
from modules.errors import UserError
from modules.json_files import read_json

WRAPPERS = (
    "0.auto_model.",
    "auto_model.",
    "backbone.",
    "module.",
    "model.",
    "transformer.",
    "language_model.",
    "bert.",
    "roberta.",
    "distilbert.",
    "mpnet.",
    "electra.",
    "albert.",
    "deberta.",
    "nomic_bert.",
    "new.",
    "ernie.",
    "longformer.",
    "roformer.",
    "rembert.",
    "convbert.",
    "funnel.",
    "esm.",
    "luke.",
    "data2vec_text.",
)
"""Prefixes that classes around a backbone put before its names."""

HEADS = re.compile(
    r"(lm_head|mlm_head|cls|classifier|score|qa_outputs|predictions|sop_classifier|discriminator_predictions"
    r"|generator_predictions|generator_lm_head|vocab_transform|vocab_layer_norm|vocab_projector|lm_predictions)\."
    r"|head\.(dense|norm)\.|decoder\.(weight|bias)$"
)
"""Beginnings of the names of heads that stand on a backbone and never enter an embedding."""

TIED_HEADS = re.compile(r"(lm_head|lm_head\.decoder|cls\.predictions\.decoder|decoder|vocab_projector)\.weight$")
"""Heads that are the embedding table itself, where a config says that they are tied."""

OTHER_NAMES = {"embeddings": "embedding.weight"}
"""model2vec's name of the table of static embeddings, to the canonical name."""

TIED = {"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"}
"""Names of a tensor that a backbone has in several places, to the canonical name."""

BUFFERS = re.compile(r"(^|\.)(position_ids|token_type_ids|(original_)?inv_freq|attn\.(masked_)?bias)$")
"""Tensors that are computed from the config; some versions save them, others do not."""

POOLER = "pooler."


class Weight(NamedTuple):
    """The place of a tensor in a model folder.

    Args:
        folder: within the model's folder: empty for its root, or that of a sentence-transformers module.
        file: that holds it.
        key: its name there.
    """

    folder: str
    file: TensorFile
    key: str

    @property
    def info(self) -> TensorInfo:
        """The dtype and shape of the tensor, and its place in the file."""
        return self.file.tensors[self.key]


@dataclass(frozen=True)
class Layout:
    """The tensors of a model folder by canonical name, in the order of its files.

    A canonical name is the backbone's own; for a later sentence-transformers module, its folder, ``/`` and the key.

    Args:
        files: all opened files.
        weights: the tensors that a merge combines.
        kept: heads and buffers, which no embedding depends on.
        tied: keys that are another name of a tensor in `weights`.
    """

    files: list[TensorFile] = field(default_factory=list)
    weights: dict[str, Weight] = field(default_factory=dict)
    kept: dict[str, Weight] = field(default_factory=dict)
    tied: list[str] = field(default_factory=list)

    def entries(self) -> list[Weight]:
        """Return the place of every tensor, in the order of the files."""
        return sorted((self.weights | self.kept).values(), key=self.place)

    def place(self, weight: Weight) -> tuple[int, int]:
        """Return the number of a tensor's file, and the tensor's first byte in it."""
        return self.files.index(weight.file), weight.info.start

    def close(self) -> None:
        """Close all files."""
        for file in self.files:
            file.close()


def read_layout(folder: Path) -> Layout:
    """Open a model folder and name its tensors.

    Raises:
        UserError: the folder has no weights as safetensors, quantised weights, or an adapter beside the weights.
    """
    first = backbone_folder(folder)
    config = read_json(first / "config.json", {})
    if "quantization_config" in config:
        raise UserError(f"{first}/config.json: quantised weights cannot be merged; use the model in full precision")
    layout = Layout()
    root = "" if first == folder else str(first.relative_to(folder))
    for part in dict.fromkeys([root, *weighted_modules(folder)]):
        files = open_weights(folder / part)
        layout.files.extend(files)
        keys = [(file, key) for file in files for key in file.tensors]
        own = canonical_names(key for _, key in keys)
        for file, key in keys:
            name = own[key] if part == root else f"{part}/{key}"
            _place(layout, name, Weight(part, file, key), tied=config.get("tie_word_embeddings") is True)
    return layout


def _place(layout: Layout, name: str, weight: Weight, tied: bool) -> None:
    name = TIED.get(name, name)
    if name in layout.weights or (tied and TIED_HEADS.match(name)):
        layout.tied.append(weight.key)
    elif HEADS.match(name) or BUFFERS.search(name) or not weight.info.dtype.is_floating_point:
        layout.kept[name] = weight
    else:
        layout.weights[name] = weight


def canonical_names(keys: Iterable[str]) -> dict[str, str]:
    """Return the backbone's own names of a checkpoint's keys.

    A wrapper's prefix is taken off if every key but the heads' has it: DistilBERT's own names begin with
    ``transformer.`` too, but not all of them.
    """
    names = {key: OTHER_NAMES.get(key, re.sub(r"LayerNorm\.(gamma|beta)$", _modern, key)) for key in keys}
    while True:
        body = [name for name in names.values() if not HEADS.match(name)]
        prefix = next((p for p in WRAPPERS if body and all(name.startswith(p) for name in body)), None)
        if prefix is None:
            return names
        names = {key: name.removeprefix(prefix) for key, name in names.items()}


def _modern(match: re.Match[str]) -> str:
    """Replace TensorFlow's name of a LayerNorm's parameter, as transformers does on loading."""
    return "LayerNorm." + {"gamma": "weight", "beta": "bias"}[match.group(1)]


def weighted_modules(folder: Path) -> list[str]:
    """Return the folders of a sentence-transformers model's modules with weights of their own, Dense for one.

    Raises:
        UserError: a module's weights are pickled.
    """
    paths = [str(path.relative_to(folder)) for _, path in st_modules(folder) if path != folder]
    for path in paths:
        if (folder / path / "pytorch_model.bin").is_file() and not list((folder / path).glob("*.safetensors")):
            raise UserError(f"{folder}/{path}/pytorch_model.bin is a pickle; save the model again as safetensors")
    return [path for path in paths if list((folder / path).glob("*.safetensors"))]


@contextmanager
def layout_writer(
    out: Path, entries: Sequence[tuple[Weight, torch.dtype]], max_bytes: int = MAX_SHARD_BYTES
) -> Iterator[Callable[[Weight, Tensor, int], None]]:
    """Write tensors under the names, and in the folders of modules, that a model's files have for them.

    Args:
        out: the new model's folder.
        entries: all tensors that will be written, and their dtypes.
        max_bytes: largest size of a file.

    Yields:
        A function that writes a tensor from an entry on, 0 for a whole tensor; tensors are written in any order.
    """
    specs: dict[str, dict[str, tuple[torch.dtype, tuple[int, ...]]]] = {}
    for weight, dtype in entries:
        specs.setdefault(weight.folder, {})[weight.key] = dtype, weight.info.shape
    with ExitStack() as stack:
        writers = {part: stack.enter_context(CheckpointWriter(out / part, of, max_bytes)) for part, of in specs.items()}
        yield lambda weight, tensor, start: writers[weight.folder].write(weight.key, tensor, start)


def match_layout(base: Layout, expert: Layout, who: str) -> list[str]:
    """Check that an expert has the base's weights, a pooler aside.

    Args:
        base: of theta_0.
        expert: of the expert.
        who: how messages call the expert.

    Returns:
        The harmless differences, one per line.

    Raises:
        UserError: the expert lacks weights, has additional weights, or weights of other shapes.
    """
    ours, theirs = base.weights, expert.weights
    shared = [name for name in ours if name in theirs]
    missing, extra = [n for n in ours if n not in theirs], [n for n in theirs if n not in ours]
    shapes = [
        f"{name} {list(theirs[name].info.shape)} for {list(ours[name].info.shape)}"
        for name in shared
        if theirs[name].info.shape != ours[name].info.shape
    ]
    refuse_keys(f"{who} lacks weights of the base", [n for n in missing if not n.startswith(POOLER)])
    refuse_keys(f"{who} has weights that the base lacks", [n for n in extra if not n.startswith(POOLER)])
    refuse_keys(f"{who} has other shapes than the base", shapes)
    return list(_harmless(base, expert, who, missing, extra))


def refuse_keys(what: str, keys: list[str], todo: str = "merge models of one architecture") -> None:
    """Refuse keys, if there are any.

    Args:
        what: the beginning of the message.
        keys: the keys, of which the message names the first.
        todo: the end of the message.

    Raises:
        UserError: there are keys.
    """
    if keys:
        raise UserError(f"{what} ({len(keys)}): {', '.join(keys[:4])}{', ...' * (len(keys) > 4)}; {todo}")


def _harmless(base: Layout, expert: Layout, who: str, missing: list[str], extra: list[str]) -> Iterable[str]:
    if missing:
        yield f"{who} has no pooler: the base's is kept"
    if extra:
        yield f"{who} has a pooler, the base has none: it is left out"
    heads = [name for name in expert.kept if name not in base.kept]
    if heads:
        yield f"{who} has heads or buffers that the base lacks ({len(heads)}): {', '.join(heads[:4])}; left out"
    if [n for n in base.kept if n not in expert.kept]:
        yield f"{who} lacks heads or buffers of the base: the base's are kept"
    if expert.tied:
        yield f"{who} stores tied weights twice ({', '.join(expert.tied)}): read once"
    shared = [name for name in base.weights if name in expert.weights]
    if any(base.weights[n].key != expert.weights[n].key for n in shared):
        name = next(n for n in shared if base.weights[n].key != expert.weights[n].key)
        yield f"{who} calls {base.weights[name].key} {expert.weights[name].key}: names are matched"
    dtypes = {str(expert.weights[n].info.dtype)[6:] for n in shared} - {
        str(w.info.dtype)[6:] for w in base.weights.values()
    }
    if dtypes:
        yield f"{who} is in {', '.join(sorted(dtypes))}: merged in float32"
    if len(base.files) != len(expert.files):
        yield f"{who} has {len(expert.files)} weight files, the base {len(base.files)}: read tensor by tensor"
