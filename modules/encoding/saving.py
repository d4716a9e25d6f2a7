"""Writing a pipeline: the files of the model that it was loaded from, with its weights and settings."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor

from modules.checkpoints.checkpoint_layout import Layout, layout_writer, read_layout
from modules.checkpoints.model_settings import copy_settings, write_text_settings
from modules.checkpoints.st_folder import is_st_folder, write_pipeline
from modules.checkpoints.text_settings import Pipeline
from modules.errors import UserError


def save_pipeline(
    pipeline: SentenceTransformer, base: Path, chosen: Pipeline, weights: Mapping[str, Tensor], out: Path
) -> None:
    """Write a folder that ``SentenceTransformer(out)`` loads and that embeds as the pipeline does.

    Config, tokenizer and code are copied from the folder that it was loaded from, in a form that old and new versions
    read alike (`modules.checkpoints.portable`); tensors that are no part of the pipeline, as a language model's head,
    are carried along.

    Args:
        pipeline: of sentence-transformers; says how a plain transformers checkpoint pools.
        base: the folder that it was loaded from.
        chosen: the folder of its modules, and its settings of texts.
        weights: all parameters, by canonical name.
        out: made if absent.

    Raises:
        UserError: `out` is the folder that the pipeline was loaded from.
    """
    if out.resolve() == base.resolve():
        raise UserError(f"{out} is the folder that the model was loaded from; save it elsewhere")
    out.mkdir(parents=True, exist_ok=True)
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    copy_settings(base, chosen, out, dtype)
    if not is_st_folder(out):
        pooling = next(module for module in pipeline if isinstance(module, Pooling))
        modes = [pooling.pooling_mode] if isinstance(pooling.pooling_mode, str) else list(pooling.pooling_mode)
        write_pipeline(out, modes, pooling.embedding_dimension)
        write_text_settings(out, chosen.settings)
    with closing(read_layout(base)) as layout:
        write_weights(layout, weights, out)


def write_weights(layout: Layout, weights: Mapping[str, Tensor], out: Path) -> None:
    """Write a model's tensors under the names that the files of another have for them.

    Args:
        layout: of the other model's files.
        weights: tensors in the place of the files', by canonical name; the other tensors are carried along.
        out: the folder that is written.
    """
    entries = layout.weights | layout.kept
    dtypes = [(entry, weights[n].dtype if n in weights else entry.info.dtype) for n, entry in entries.items()]
    with layout_writer(out, dtypes) as write:
        for name, entry in entries.items():
            write(entry, weights[name].cpu() if name in weights else entry.file.read(entry.key), 0)
