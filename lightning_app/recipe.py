"""What a recipe says of the models to train; every field is a key of the YAML."""

from dataclasses import dataclass, field

from datamodules import DataSource
from modules import LossConfig, UserError


@dataclass(frozen=True)
class ExpertRecipe:
    """How one model is trained: an expert, or a joint model.

    Args:
        data: the data sets, each a batch of its own; with several, ``share`` says how often each is drawn.
        mix: train on the data of these other recipes instead, recipe to share; null: in proportion to the rows.
        start: ``base``, the name of another recipe (``joint``, say), or a model folder.
        loss: of every data set that has none of its own.
        max_steps: optimiser steps.
        batch_size: rows a process and step.
        lr: peak learning rate.
        warmup: fraction of the steps over which the learning rate rises.
        weight_decay: of weight matrices.
        max_length: tokens kept of a text while training; null: the model's own limit.
        validate_every: optimiser steps between validations; null: once, at the end.
    """

    data: list[DataSource] = field(default_factory=list)
    mix: dict[str, float | None] = field(default_factory=dict)
    start: str = "base"
    loss: LossConfig = field(default_factory=LossConfig)
    max_steps: int = 500
    batch_size: int = 32
    lr: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.0
    max_length: int | None = None
    validate_every: int | None = None


def joint_recipe(experts: dict[str, ExpertRecipe]) -> ExpertRecipe:
    """Joint training on the data of all experts, in proportion to it, for as many steps as they take together.

    Raises:
        UserError: the experts do not agree on how to train, so nothing can be taken from them.
    """
    first = next(iter(experts.values()))
    for key in ("loss", "batch_size", "lr", "warmup", "weight_decay", "max_length"):
        values = {name: getattr(recipe, key) for name, recipe in experts.items()}
        if any(value != getattr(first, key) for value in values.values()):
            raise UserError(f"recipes.joint is needed, because the experts differ in {key}: {values}")
    return ExpertRecipe(
        mix=dict.fromkeys(experts),
        loss=first.loss,
        max_steps=sum(recipe.max_steps for recipe in experts.values()),
        batch_size=first.batch_size,
        lr=first.lr,
        warmup=first.warmup,
        weight_decay=first.weight_decay,
        max_length=first.max_length,
    )
