"""The stages of a merge of given models whose position is learned on given rows."""

import inspect
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from callbacks import MtebCallback
from lightning_app.recipe.named_merges import MAIN
from lightning_app.recipe.position_settings import PositionSettings
from lightning_app.stages.fixed_merge import FixedMerge
from lightning_app.stages.held_out import HeldOut
from lightning_app.stages.learn import Learn
from lightning_app.stages.learning_rows import LearningRows
from lightning_app.stages.merge_inputs import MergeInputs
from lightning_app.stages.model import Model
from lightning_app.stages.score import Score
from lightning_app.stages.scorer import Scorer
from lightning_app.stages.trainer_settings import SharedTrainer
from modules import Average, MergeModule, Search, UserError
from modules.checkpoints.base_model import find_base_model
from modules.on_disk.plan import Plan

TRAINER = {"accelerator": "auto", "devices": 1, "logger": False}
"""The section ``trainer`` of a recipe that has no keys but these."""

OBJECTIVE = ("mu", "pull", "settled")
"""Arguments of `MergeModule` that are as it has them."""

AVERAGE = "average"

RESERVED = ("base", AVERAGE, MAIN)
"""Rows of the table that are no experts."""


@dataclass(frozen=True)
class LearnedMerge:
    """Base, experts, their average and the merge whose position is learned, and how each is measured.

    Args:
        plan: the models and the method; what it says of the output does not matter here.
        rows: to learn on, choose on and show.
        search: how the position is found.
        signed: whether a coefficient may become zero or negative.
        run_dir: the folder of the stages.
        tasks: names of MTEB tasks on which the models are scored.
    """

    plan: Plan
    rows: LearningRows
    search: Search
    signed: bool
    run_dir: Path
    tasks: tuple[str, ...] = ()

    @cached_property
    def trainer(self) -> SharedTrainer:
        """The Trainers of all stages."""
        return SharedTrainer(TRAINER, str(self.run_dir), self.rows.seed)

    @cached_property
    def inputs(self) -> MergeInputs:
        """The models that the merge is between, and how they are combined."""
        plan = self.plan
        return MergeInputs(
            start=Model("base", path=plan.base),
            experts=tuple((name, Model(name, path=path)) for name, path in plan.experts.items()),
            method=plan.method,
            granularity=plan.granularity,
            signed=self.signed,
            settings_of=plan.settings_of,
            allow_suspicious=plan.allow_suspicious,
        )

    @cached_property
    def learn(self) -> Learn:
        """The stage that learns the position."""
        known = inspect.signature(MergeModule).parameters
        objective: dict[str, Any] = {key: known[key].default for key in OBJECTIVE}
        if not self.plan.method.has_scale:
            objective["mu"] = 0.0
        return Learn(
            name=MAIN,
            merge=self.inputs,
            search=self.search,
            **objective,
            probe=self.rows.probe(),
            trainer=self.trainer.of_position(PositionSettings().trainer_arguments(), self.search, scored=False),
        )

    @cached_property
    def models(self) -> list[Model]:
        """The rows of the table: base, experts, average, and the learned merge as the last."""
        plain = replace(self.inputs, method=Average(), granularity="model", signed=False)
        average = Model(AVERAGE, stage=FixedMerge(AVERAGE, plain, "equal"))
        experts = [model for _, model in self.inputs.experts]
        return [self.inputs.start, *experts, average, Model(MAIN, stage=self.learn)]

    @cached_property
    def held_out(self) -> list[HeldOut]:
        """The stages that measure the models on the held-out rows."""
        rows, trainer = self.rows.held_out(), self.trainer.of_validation()
        return [HeldOut(model.name, model, rows, trainer) for model in self.models]

    @cached_property
    def scores(self) -> list[Score]:
        """The stages that score the models on MTEB tasks; none without tasks."""
        if not self.tasks:
            return []
        scorer = Scorer(MtebCallback(tasks=list(self.tasks)), self.trainer.of_validation().device)
        return [Score(model.name, model, scorer) for model in self.models]

    def check(self) -> None:
        """Refuse before anything is written what the stages would refuse.

        Raises:
            UserError: a model is missing, the name of an expert is taken, a task is unknown or has no data, or the
                method cannot be learned or does not fit the experts.
        """
        names = list(self.plan.experts)
        if taken := set(RESERVED) & set(names):
            raise UserError(f"an expert cannot be called '{taken.pop()}', which is another row of the table; rename it")
        find_base_model(self.plan.base)
        for expert in self.plan.experts.values():
            find_base_model(expert)
        self.plan.method.refuse_learning()
        self.plan.method.places(names)
        self.inputs.check_statistics()
        for stage in self.scores[:1]:
            stage.scorer.key_content()  # reads the tasks
