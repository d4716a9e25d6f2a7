"""The rows that a recipe can ask for by name: the baselines that Self Positioning is measured against."""

from lightning_app.recipe.model_recipes import MergeRecipe
from modules.merging import Average, TaskArithmetic
from modules.merging.merge_method import METHODS
from modules.search import CmaEs

SCALES = [0.4, 0.6, 0.8, 1.0, 1.2, 1.5]
"""What a merged task vector is multiplied with where a baseline has a grid."""

MAIN = "self_positioning"
"""The merge that a recipe's section ``model`` is, in the table and in TensorBoard."""

GRIDS: dict[str, list[float]] = {
    "task_arithmetic": [0.2, 0.3, 0.4, 0.5, 0.7, 1.0],
    "ties": SCALES,
    "fisher": SCALES,
    "reg_mean": SCALES,
}
"""Scales that a method's baseline tries; those of other methods stand at their own length."""

MERGES: dict[str, MergeRecipe] = {
    MAIN: MergeRecipe(),
    **{
        name: MergeRecipe(weighting="equal", method=method(), scales=GRIDS.get(name, []))
        for name, method in METHODS.items()
    },
    "size_weighted": MergeRecipe(weighting="size"),
    "inverse_norm": MergeRecipe(weighting="inverse_norm", scales=SCALES),
    "lm_cocktail": MergeRecipe(weighting="lm_cocktail", temperatures=[0.05, 0.1, 0.5, 1.0, 5.0]),
    "greedy_soup": MergeRecipe(weighting="greedy"),
    "joint_pulled_back": MergeRecipe(
        experts=["joint"], weighting="equal", method=Average(), scales=[0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    ),
    "learned_linear": MergeRecipe(method=TaskArithmetic(), granularity="model"),
    "learned_layerwise": MergeRecipe(method=TaskArithmetic(), granularity="layer"),
    "cma_es": MergeRecipe(search=CmaEs()),
}
"""Merges that need no entry in ``merges``; an entry of the same name there takes their place."""

GROUPS = ("base", "experts", "joint")
"""Rows that are no merges."""
