"""The sections ``recipes`` and ``merges``; every field is a key of the YAML."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from datamodules import DataSource
from datamodules.resampling import Length
from modules import LossConfig, MergeMethod, Search, UserError

Weighting = Literal["learned", "equal", "size", "inverse_norm", "lm_cocktail", "greedy"]


@dataclass(frozen=True)
class StopEarly:
    """Conditions under which the training of an expert ends before its last step.

    Args:
        others_at_most: bound of the mean loss on the probe rows of the *other* tasks, relative to that at the start:
            a gentle expert. The first validated step above it is the last, and is not kept; null: none.
        patience: validations without a lower loss of its own; null: none.
    """

    others_at_most: float | None = None
    patience: int | None = None


@dataclass(frozen=True)
class Keep:
    """Models of steps on the way.

    Args:
        every: optimiser steps from one model to the next.
    """

    every: int


@dataclass(frozen=True)
class Training:
    """The training of a model, whatever its rows are.

    Args:
        max_steps: optimiser steps.
        batch_size: rows a process and step.
        lr: peak learning rate.
        warmup: fraction of the steps over which the learning rate rises.
        weight_decay: of weight matrices.
        max_length: tokens kept of a text while training; null: the model's own limit.
        validate_every: optimiser steps between validations; null: once, at the end.
        conflict_every: optimiser steps between measurements of the angle between the gradients of what is mixed;
            null: none.
        optimizer: ``class_path`` and ``init_args``; null: AdamW with ``lr`` and ``weight_decay``. Another has ``lr``,
            too, unless its ``init_args`` have one.
        schedule: ``class_path`` and ``init_args`` of the schedule of the learning rate, stepped every optimiser step;
            null: linear warm-up and decay.
        keep_best: save the validated step with the lowest loss, not the last step; needs ``validate_every``.
        stop_early: when training ends before ``max_steps``; the best step is kept. Needs ``validate_every``.
        keep: models of steps on the way, which merges name ``NAME@STEP``; null: none.
    """

    max_steps: int = 500
    batch_size: int = 32
    lr: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.0
    max_length: int | None = None
    validate_every: int | None = None
    conflict_every: int | None = None
    optimizer: dict[str, Any] | None = None
    schedule: dict[str, Any] | None = None
    keep_best: bool = False
    stop_early: StopEarly | None = None
    keep: Keep | None = None


@dataclass(frozen=True)
class ExpertRecipe(Training):
    """The training and the rows of a model, an expert or a joint model; see `Training` for its other arguments.

    Args:
        data: the data sets, each a batch of its own; with several, ``share`` says how often each is drawn.
        mix: train on the data of these other recipes instead, recipe to share; null: in proportion to the rows.
        resample: with ``mix``, make the rows of the recipes have its proportions, instead of drawing from them by it:
            ``total`` keeps how many there are in all, ``max`` those of the largest; see `resampled_sizes`.
        part: ``[i, n]``, the i-th of n disjoint parts of the rows of each data set, counted from 1; null: all rows.
        rows: ``expert``, or ``probe``: train on the rows that positions are learned on (a control).
        start: ``base``, the name of another model (``joint``, say), or a model folder.
        loss: of every data set that has none of its own; null: ``LossConfig()``. With ``mix``: of all that is mixed, in
            place of the recipes' own; null: these.
        seed: with another number, the order of the batches and dropout are others, on the same rows; the run's seed
            changes all of them.
    """

    data: list[DataSource] = field(default_factory=list)
    mix: dict[str, float | None] = field(default_factory=dict)
    resample: Length | None = None
    part: tuple[int, int] | None = None
    rows: Literal["expert", "probe"] = "expert"
    start: str = "base"
    loss: LossConfig | None = None
    seed: int = 0

    def training(self) -> Training:
        """Return how the model is trained, without its rows."""
        return Training(**{entry.name: getattr(self, entry.name) for entry in fields(Training)})


@dataclass(frozen=True)
class MergeRecipe:
    """A model that is merged of others. Keys that are null are as in the section ``model``.

    Args:
        experts: names of the models to merge: experts, recipes, other merges; empty: the experts of ``model``.
        start: what task vectors are taken against: ``base``, the name of another model (``joint``, say), or a folder;
            losses are relative to the base's all the same, but for ``lm_cocktail``, where they are to the start's.
        weighting: ``learned``: by gradient descent on the probe; else given: ``equal``, or a fixed linear weighting of
            `modules.merging.weightings`, with losses taken on the probe rows.
        method: how task vectors are combined; fixed weightings other than ``equal`` are linear, and have none.
        scales: try the merged task vector times these, and keep the best on the probe-validation rows.
        temperatures: of ``lm_cocktail``, tried in the same way, each with and without the start as a member.
        granularity: see `MergeModule`.
        signed: see `MergeModule`.
        mu: see `MergeModule`.
        pull: see `MergeModule`.
        search: see `MergeModule`.
        probe_size: rows to learn on, at most ``probe.reserve``.
        task_weights: relative number of the rows to learn on of each data set of the probe, and its part in the
            objective that is learned; null: as in ``probe``. Models are compared by the probe's all the same.
        max_steps: optimiser steps of the learning; null: as ``position`` says.
        initial: the name of a learned merge whose position is the start for the experts that both have.
    """

    experts: list[str] = field(default_factory=list)
    start: str = "base"
    weighting: Weighting = "learned"
    method: MergeMethod | None = None
    scales: list[float] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)
    granularity: int | str | None = None
    signed: bool | None = None
    mu: float | None = None
    pull: float | None = None
    search: Search | None = None
    probe_size: int | None = None
    task_weights: dict[str, float] | None = None
    max_steps: int | None = None
    initial: str | None = None


def joint_recipe(experts: dict[str, ExpertRecipe]) -> ExpertRecipe:
    """Joint training on the data of all experts, in proportion to it, for as many steps as they take together.

    Raises:
        UserError: the experts do not agree on how to train, so nothing can be taken from them.
    """
    first = next(iter(experts.values()))
    for key in ("batch_size", "lr", "warmup", "weight_decay", "max_length"):
        values = {name: getattr(recipe, key) for name, recipe in experts.items()}
        if any(value != getattr(first, key) for value in values.values()):
            raise UserError(f"recipes.joint is needed, because the experts differ in {key}: {values}")
    return ExpertRecipe(
        mix=dict.fromkeys(experts),
        max_steps=sum(recipe.max_steps for recipe in experts.values()),
        batch_size=first.batch_size,
        lr=first.lr,
        warmup=first.warmup,
        weight_decay=first.weight_decay,
        max_length=first.max_length,
    )


def check_merge(name: str, merge: MergeRecipe) -> None:
    """Refuse a merge whose keys contradict each other.

    Raises:
        UserError: they do.
    """
    where = f"merges.{name}"
    if merge.weighting == "learned" and (merge.scales or merge.temperatures):
        raise UserError(f"{where}: a learned position finds its own scale; leave out scales and temperatures")
    only_learned = ("mu", "pull", "search", "probe_size", "task_weights", "max_steps", "initial", "signed")
    given = [key for key in only_learned if getattr(merge, key) is not None]
    if merge.weighting != "learned" and given:
        raise UserError(f"{where}.{given[0]}: only a learned position has one, and weighting is {merge.weighting}")
    if merge.weighting not in ("learned", "equal") and merge.method is not None:
        raise UserError(f"{where}.method: the weighting {merge.weighting} is linear; leave it out")
    if (merge.weighting == "lm_cocktail") != bool(merge.temperatures):
        raise UserError(f"{where}.temperatures: give some with weighting lm_cocktail, and only then")
    if any(value <= 0 for value in (*merge.scales, *merge.temperatures)):
        raise UserError(f"{where}: scales and temperatures are above 0")
