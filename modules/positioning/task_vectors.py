"""Task vectors ``V_i = theta_i - theta_0`` in memory: taken, checked, prepared for a merge method.

Shapes: N experts.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.checkpoint_layout import match_layout, read_layout
from modules.checkpoints.text_settings import Pipeline, text_settings
from modules.compatibility.agree import agree
from modules.encoding.text_encoder import TextEncoder, encoder_config
from modules.errors import UserError
from modules.merging.base import MergeMethod, Prepared, Statistics
from modules.merging.gram import gram_of, sum_by_group

Vectors = dict[str, Tensor]
"""Parameter of the backbone to ``[N, *shape]``: the same parameter's difference in every expert."""


def load_task_vectors(
    base: TextEncoder,
    experts: Mapping[str, str],
    settings_of: str | None = None,
    pooling: str | None = None,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = rank_zero_info,
) -> Vectors:
    """Read expert folders, one at a time, and subtract the base.

    Args:
        base: theta_0, as loaded; what it does not say of pooling, prompts and lengths it takes from the experts.
        experts: name to model folder.
        settings_of: whose longest text and prompts the base takes, where models differ; see `modules.compatibility`.
        pooling: told for a base that does not say how it pools; experts that say another are refused.
        trust_remote_code: let transformers run the experts' own code.
        say: prints a line.

    Returns:
        The task vectors; parameters that no expert changed are left out.

    Raises:
        UserError: an expert is missing, or does not go together with the base.
    """
    if base.folder is None:
        raise UserError("the base was not loaded from a folder, so experts cannot be compared with it; save it first")
    folders = {name: find_base_model(folder, code=trust_remote_code) for name, folder in experts.items()}
    _compare_weights(base.folder, folders, say)
    _take_pipeline(base, agree(base.folder, folders, settings_of, say), pooling)
    weights = dict(base.backbone.named_parameters())
    stacked = {name: torch.empty(len(folders), *weight.shape) for name, weight in weights.items()}
    for i, folder in enumerate(folders.values()):
        theirs = dict(TextEncoder.load(folder, trust_remote_code=trust_remote_code).backbone.named_parameters())
        # A pooler that a model lacks has no task vector.
        stacked = {name: vectors for name, vectors in stacked.items() if name in theirs}
        with torch.no_grad():
            for name, vectors in stacked.items():
                torch.sub(theirs[name], weights[name], out=vectors[i])
    return {name: vectors for name, vectors in stacked.items() if vectors.any()}


def _compare_weights(base: Path, experts: Mapping[str, Path], say: Callable[[str], None]) -> None:
    """Refuse experts whose files hold other weights than the base's, as the route on disk does."""
    with closing(read_layout(base)) as ours:
        for name, folder in experts.items():
            with closing(read_layout(folder)) as theirs:
                for line in match_layout(ours, theirs, f"expert '{name}' ({folder})"):
                    say(line)


def _take_pipeline(base: TextEncoder, pipeline: Pipeline, pooling: str | None) -> None:
    """Have the base turn hidden states and texts into what the pipeline says."""
    assert base.folder is not None
    if pipeline == Pipeline(base.folder, text_settings(base.folder, base.folder)):
        return
    settings = {key: pipeline.settings[key] for key in ("max_length", "prompts", "default_prompt_name")}
    base.config = replace(encoder_config(pipeline.folder, pooling), **settings)


def prepare_vectors(method: MergeMethod, vectors: Vectors, statistics: Statistics | None = None) -> dict[str, Prepared]:
    """What a method combines, tensor by tensor; `vectors` may be changed in place."""
    prepare = method.preparation(lambda: iter(vectors.items()), statistics)
    return {name: prepare(name, stacked) for name, stacked in vectors.items()}


def gram_matrices(vectors: Mapping[str, Tensor], groups: Mapping[str, str]) -> Tensor:
    """``G[i, j] = <V_i, V_j>`` over the parameters of each group.

    Args:
        vectors: ``[N, *shape]`` per parameter.
        groups: parameter to group; see `modules.merging.granularity.groups_of`.

    Returns:
        ``[G, N, N]`` float64, in the order in which the groups first occur.
    """
    grams = {name: gram_of(stacked) for name, stacked in vectors.items()}
    return sum_by_group(grams, groups, dict.fromkeys(groups.values()))
