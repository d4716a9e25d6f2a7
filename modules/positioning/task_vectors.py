"""Task vectors ``V_i = theta_i - theta_0`` in memory: taken, checked, prepared for a merge method.

Shapes: N experts.
"""

from collections.abc import Callable, Mapping
from contextlib import closing

from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from modules.checkpoints.base_model import find_base_model
from modules.checkpoints.task_vector_files import open_models
from modules.checkpoints.text_settings import Pipeline, text_settings
from modules.compatibility.agree import agree
from modules.encoding.text_encoder import TextEncoder
from modules.gram import gram_of, sum_by_group
from modules.merging.merge_method import MergeMethod, Prepared, Statistics

Vectors = dict[str, Tensor]
"""Parameter of the backbone to ``[N, *shape]``: its difference to theta_0 in every expert."""


def load_task_vectors(
    base: TextEncoder,
    experts: Mapping[str, str],
    settings_of: str | None = None,
    pooling: str | None = None,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = rank_zero_info,
) -> Vectors:
    """Read the task vectors of experts from their files, tensor by tensor, as a merge on disk does.

    Args:
        base: theta_0, as loaded; it takes pooling, prompts and lengths that it does not say from the experts.
        experts: name to the folder of a model or an adapter, or to a hub name.
        settings_of: the model whose longest text and prompts the base takes, where models differ; see `agree`.
        pooling: of a base that does not say how it pools; experts that say another are refused.
        trust_remote_code: let transformers run the code of an expert whose modules the base takes.
        say: prints a line.

    Returns:
        The task vectors; parameters that no expert changed are left out.

    Raises:
        UserError: an expert is missing, or does not go together with the base.
    """
    folders = {name: find_base_model(folder, code=trust_remote_code) for name, folder in experts.items()}
    weights = base.weights()
    with closing(open_models(base.folder, folders, say)) as files:
        _take_pipeline(base, agree(base.folder, folders, settings_of, say), pooling, trust_remote_code)
        # A tensor that no expert changed has no task vector.
        found = {name: vectors.clone() for name, vectors in files.stream() if name in weights}
    return {name: found[name] for name in weights if name in found}  # layers in their order, whatever the files'


def _take_pipeline(base: TextEncoder, chosen: Pipeline, pooling: str | None, trust_remote_code: bool) -> None:
    """Give the base the modules and the settings of texts of the chosen pipeline."""
    if chosen.folder != base.folder:
        base.take_pipeline(TextEncoder.load(chosen.folder, pooling=pooling, trust_remote_code=trust_remote_code))
    if chosen.settings != text_settings(base.folder, base.folder):
        base.take_settings(chosen.settings)


def prepare_vectors(method: MergeMethod, vectors: Vectors, statistics: Statistics | None = None) -> dict[str, Prepared]:
    """Return the task vectors as a method combines them, by tensor; `vectors` may be changed in place."""
    prepare = method.preparation(lambda: iter(vectors.items()), statistics)
    return {name: prepare(name, stacked) for name, stacked in vectors.items()}


def gram_matrices(vectors: Mapping[str, Tensor], groups: Mapping[str, str]) -> Tensor:
    """Return ``G[i, j] = <V_i, V_j>`` over the parameters of each group.

    Args:
        vectors: ``[N, *shape]`` per parameter.
        groups: parameter to group; see `modules.merging.granularity.groups_of`.

    Returns:
        ``[G, N, N]`` float64, in the order in which the groups first occur.
    """
    grams = {name: gram_of(stacked) for name, stacked in vectors.items()}
    return sum_by_group(grams, groups, dict.fromkeys(groups.values()))
