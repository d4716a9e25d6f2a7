"""The objective of any model: what every choice of a study is made on."""

from functools import cached_property

from lightning_app.stages.model import Model
from lightning_app.stages.probe import METRICS, Probe
from lightning_app.stages.probe_rows import ProbeRows
from lightning_app.stages.probe_score import ProbeScore, read_probe_scores
from lightning_app.stages.stage_graph import StageGraph
from lightning_app.stages.trainer_settings import TrainerSettings
from modules.json_files import read_json
from modules.positioning.relative_loss import refuse_undefined


class Objectives:
    """The losses of models on the probe-validation rows, relative to the base's.

    Args:
        probe: the rows.
        base: its losses are what others are relative to.
        trainer: takes the losses.
        graph: runs the stages.
    """

    def __init__(self, probe: ProbeRows, base: Model, trainer: TrainerSettings, graph: StageGraph) -> None:
        self.probe, self.base, self.trainer, self.graph = probe, base, trainer, graph

    def stage(self, model: Model) -> Probe:
        """Return the stage that takes the losses of a model."""
        return Probe(model.name, model, self.probe, self.trainer)

    def score_stage(self, model: Model) -> ProbeScore:
        """Return the stage that scores a model on the same rows."""
        return ProbeScore(model.name, model, self.probe, self.trainer)

    def scores(self, model: Model) -> dict[str, float]:
        """Return data set to score x 100, see `ProbeScore`; runs the stage where it has not run."""
        found = read_probe_scores(self.graph.run(self.score_stage(model)))
        return {name: 100 * score for name, score in found.items()}

    def score(self, model: Model) -> float:
        """Return the mean of `scores`, weighted as a position's objective."""
        weights, scores = self.probe.weights, self.scores(model)
        return sum(weight * scores[name] for name, weight in weights.items()) / sum(weights.values())

    def losses(self, model: Model) -> dict[str, float]:
        """Return data set to mean loss; runs the stage where it has not run."""
        found = read_json(self.graph.run(self.stage(model)) / METRICS)
        return {name: found[f"{name}/loss"] for name in self.probe.names}

    @cached_property
    def base_losses(self) -> dict[str, float]:
        """The losses of the base, whose weights are hashed each time its stage is asked for."""
        losses = self.losses(self.base)
        refuse_undefined(losses)
        return losses

    def objective(self, model: Model) -> float:
        """Return the mean loss relative to the base's, weighted as a position's objective, without its regulariser."""
        weights, at_base, losses = self.probe.weights, self.base_losses, self.losses(model)
        return sum(w * losses[name] / at_base[name] for name, w in weights.items()) / sum(weights.values())
