"""The section ``study`` of a recipe; every field is a key of the YAML."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from datamodules.resampling import Length, resampled_sizes
from lightning_app.recipe.model_recipes import ExpertRecipe
from modules import UserError


@dataclass(frozen=True)
class Resampling:
    """The search that a merge is to make unnecessary: joint models of several proportions (arXiv 2410.15035).

    Args:
        of: the recipe with a ``mix`` that is resampled.
        weights: one list a joint model, with one weight for each recipe of the mix.
        lengths: what stays as it is, see `resampled_sizes`; every joint model is trained in each way. It goes over its
            rows as often as ``of`` goes over its own, so with ``max`` it takes more or fewer steps.
    """

    of: str = "joint"
    weights: list[list[float]] = field(default_factory=list)
    lengths: list[Length] = field(default_factory=lambda: ["total", "max"])


@dataclass(frozen=True)
class Sensitivity:
    """Sweeps over settings that a learned position depends on.

    Args:
        of: the learned merge.
        mu: weights of the scale in the objective.
        probe_size: rows to learn on, nested in ``probe.reserve``; always as many steps as `of` takes.
        seeds: of the order of the probe's batches.
    """

    of: str = "self_positioning"
    mu: list[float] = field(default_factory=list)
    probe_size: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class StudyRecipe:
    """The parts of a study beside the rows of its table.

    Args:
        resampling: joint models of other proportions.
        seeds: further seeds of the best joint model, fixed merge and learned merge, as chosen on probe-validation.
        tasks: expert to the MTEB tasks that it was trained for; tasks of no expert count as unseen.
        averages: further means over tasks, by name: ``{old: [STSBenchmark, SciFact]}``.
        sizes: fractions of the steps of every expert at which the norm of its task vector is taken as well.
        orders: learn the SLERP chain in so many orders of the experts; 0: not.
        sensitivity: what the position depends on.
        points: of the curves over weight and scale; 0: no curves.
        grid: points a side of the loss landscape; 0: none.
        max_examples: of a task, where curves and landscape are scored; null: all.
        max_corpus: documents of a retrieval task there; null: all.
    """

    resampling: Resampling = field(default_factory=Resampling)
    seeds: list[int] = field(default_factory=list)
    tasks: dict[str, list[str]] = field(default_factory=dict)
    averages: dict[str, list[str]] = field(default_factory=dict)
    sizes: list[float] = field(default_factory=list)
    orders: int = 0
    sensitivity: Sensitivity = field(default_factory=Sensitivity)
    points: int = 0
    grid: int = 0
    max_examples: int | None = None
    max_corpus: int | None = None


def check_tasks(study: StudyRecipe, experts: Sequence[str], tasks: Sequence[str]) -> None:
    """Refuse tasks of experts that are not there, and tasks that nothing is scored on.

    Args:
        study: has them.
        experts: names of the experts.
        tasks: names of the MTEB tasks.

    Raises:
        UserError: there is one.
    """
    for expert in study.tasks:
        if expert not in experts:
            raise UserError(f"study.tasks: there is no expert '{expert}' ({', '.join(experts)} are there)")
    for key, groups in (("tasks", study.tasks), ("averages", study.averages)):
        for name in itertools.chain(*groups.values()):
            if name not in tasks:
                raise UserError(f"study.{key}: '{name}' is not among mteb.tasks ({', '.join(tasks)})")


def resampled_recipes(
    resampling: Resampling, recipes: Mapping[str, ExpertRecipe], rows: Mapping[str, int]
) -> dict[str, ExpertRecipe]:
    """A recipe for every joint model of the search.

    Args:
        resampling: the search.
        recipes: those of the study.
        rows: how many rows each recipe of the mix trains on.

    Raises:
        UserError: the recipe to be resampled has no mix, or the weights do not fit it.
    """
    if not resampling.weights:
        return {}
    joint = recipes.get(resampling.of)
    if joint is None or not joint.mix:
        raise UserError(f"study.resampling.of: '{resampling.of}' is not a recipe with a mix")
    sizes = [rows[name] for name in joint.mix]
    found = {}
    for weights, length in itertools.product(resampling.weights, resampling.lengths):
        if len(weights) != len(sizes):
            raise UserError(f"study.resampling.weights: {weights} is not one weight for each of {', '.join(joint.mix)}")
        ratio = ":".join(f"{weight:g}" for weight in weights)
        counts = resampled_sizes(sizes, weights, length)
        steps = max(1, round(joint.max_steps * sum(counts) / sum(sizes)))
        mix: dict[str, float | None] = dict(zip(joint.mix, weights, strict=True))
        name = f"{resampling.of} {ratio} {length}"
        found[name] = replace(joint, mix=mix, resample=length, max_steps=steps, conflict_every=None)
    return found


def shortened_recipes(
    sizes: list[float], recipes: Mapping[str, ExpertRecipe]
) -> Iterator[tuple[str, float, str, ExpertRecipe]]:
    """A recipe for every expert and fraction of its steps: expert, fraction, name and recipe."""
    for expert, recipe in recipes.items():
        for size in sizes:
            if not 0 < size < 1:
                raise UserError(f"study.sizes: {size} is not a fraction between 0 and 1")
            steps = max(1, round(size * recipe.max_steps))
            yield expert, size, f"{expert} x {size:g}", replace(recipe, max_steps=steps)
