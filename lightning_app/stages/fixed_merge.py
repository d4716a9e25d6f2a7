"""The stage that merges with coefficients that are given, or the best of several on the probe-validation rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lightning import LightningDataModule, Trainer
from torch import Tensor

from lightning_app.recipe.model_recipes import Weighting
from lightning_app.stages.learn import POSITION
from lightning_app.stages.merge_inputs import MergeInputs
from lightning_app.stages.probe_rows import ProbeRows
from lightning_app.stages.stage import ResultFolders, Stage
from lightning_app.stages.trainer_settings import TrainerSettings
from modules import MergeModule
from modules.distributed import is_main_process
from modules.json_files import write_json
from modules.merging.weightings import greedy_soup, inverse_norm, lm_cocktail, size_weighted

BY_LOSSES: tuple[Weighting, ...] = ("lm_cocktail", "greedy")
"""The weightings that depend on the experts' losses on the probe."""


@dataclass(frozen=True)
class Candidate:
    """A position that is tried.

    Args:
        label: what was chosen to get there.
        a: the free numbers ``[N]``; None: as they are.
        scale: of the merged task vector.
    """

    label: dict[str, float | bool]
    a: Tensor | None
    scale: float


@dataclass(frozen=True)
class Choice:
    """The rows and the Trainer of a merge that is chosen on the probe.

    Args:
        probe: the rows.
        trainer: takes the losses.
    """

    probe: ProbeRows
    trainer: TrainerSettings


@dataclass(frozen=True)
class FixedMerge(Stage):
    """A merge whose position is not learned; the model is in the folder ``model`` of the result.

    Args:
        name: of the merge.
        merge: what is merged.
        weighting: how coefficients are found.
        scales: that are tried; empty: 1.
        temperatures: of ``lm_cocktail``, that are tried.
        row_counts: rows of each expert, of the weighting ``size``.
        choice: what is needed to try; None: there is nothing to try.
    """

    kind = "merge"

    merge: MergeInputs
    weighting: Weighting
    scales: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()
    row_counts: tuple[int, ...] = ()
    choice: Choice | None = None

    @property
    def texts(self) -> int:
        """About how many texts pass through the model."""
        tried = max(1, len(self.scales)) * max(1, 2 * len(self.temperatures))
        return 0 if self.choice is None else tried * self.choice.probe.validation_texts

    def run(self, folder: Path, graph: ResultFolders) -> None:
        """Try all positions, and save the best one."""
        module = self.merge.module(graph)
        trainer = None if self.choice is None else self.choice.trainer.make_silent(self.name)
        candidates = self._candidates(module, trainer)
        values = [0.0]
        if len(candidates) > 1:
            assert self.choice is not None and trainer is not None
            values = objectives(module, trainer, self.choice.probe.data(), candidates)
        best = min(range(len(candidates)), key=values.__getitem__)
        module.position.stand_at(candidates[best].a, candidates[best].scale)
        if is_main_process():
            module.save(folder / "model")
            tried = [c.label | {"objective": value} for c, value in zip(candidates, values, strict=True)]
            found = {"position": module.describe_position(), "mean_position": module.mean_position()}
            write_json(folder / POSITION, found | ({"tried": tried} if len(tried) > 1 else {}))

    def _candidates(self, module: MergeModule, trainer: Trainer | None) -> list[Candidate]:
        """All positions that are tried."""
        free = module.position.method.has_scale
        return [
            Candidate(label | {"scale": scale}, a if free or a is None else scale * a, scale if free else 1.0)
            for label, a in self._weightings(module, trainer)
            for scale in self.scales or (1.0,)
        ]

    def _weightings(
        self, module: MergeModule, trainer: Trainer | None
    ) -> list[tuple[dict[str, float | bool], Tensor | None]]:
        """The coefficients of the weighting before the scale: one choice, or those that its settings leave."""
        experts = len(self.merge.experts)
        if self.weighting == "equal":
            return [({}, None if module.position.method.has_scale else torch.ones(experts, dtype=torch.float64))]
        if self.weighting == "size":
            return [({}, size_weighted(list(self.row_counts)))]
        if self.weighting == "inverse_norm":
            return [({}, inverse_norm(module.position.grams[0]))]
        assert self.choice is not None and trainer is not None
        one_hot = [Candidate({}, row, 1.0) for row in torch.eye(experts, dtype=torch.float64)]
        evaluate = partial(objectives, module, trainer, self.choice.probe.losses_on_probe())
        losses = evaluate(one_hot)
        if self.weighting == "greedy":
            return [({}, greedy_soup(losses, lambda a: evaluate([Candidate({}, a, 1.0)])[0]))]
        return [
            ({"temperature": t, "with_start": member}, lm_cocktail(losses, t, 1.0 if member else None))
            for t in self.temperatures
            for member in (False, True)  # losses are relative to the start's, which is 1
        ]


def objectives(
    module: MergeModule, trainer: Trainer, data: LightningDataModule, candidates: Sequence[Candidate]
) -> list[float]:
    """Return the objective at each candidate, on the validation rows of a data module."""
    found = []
    for candidate in candidates:
        module.position.stand_at(candidate.a, candidate.scale)
        trainer.validate(module, datamodule=data, verbose=False)
        found.append(float(trainer.callback_metrics["val/loss"]))
    return found
