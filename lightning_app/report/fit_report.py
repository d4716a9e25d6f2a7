"""The report of a fit: the verdict, and the tables and pictures behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from callbacks import CoefficientTrace
from datamodules import SplitTask
from datamodules.decontamination import Overlap
from lightning_app.report.cost import cost_table
from lightning_app.report.differences import differences_table, gains
from lightning_app.report.position_path import positions_table, read_path
from lightning_app.report.probe_section import probe_section
from lightning_app.report.rows_table import OVERLAP_LEGEND, data_table, shared_texts_table
from lightning_app.report.scores_table import CAPTION, scores_table
from lightning_app.report.section import Section
from lightning_app.report.significance import Row, read_row
from lightning_app.report.table import Table
from lightning_app.report.verdict import Contender, Verdict, choose, contender
from lightning_app.stages.fixed_merge import FixedMerge
from lightning_app.stages.learn import POSITION, Learn
from lightning_app.stages.model import Model
from lightning_app.stages.score import Score
from lightning_app.stages.stage_graph import StageGraph
from lightning_app.stages.train import Train
from modules.encoding.prompts import SidePrompts
from modules.json_files import read_json

if TYPE_CHECKING:
    from mteb import AbsTask

    from lightning_app.report.pictures import Picture


@dataclass(frozen=True)
class FitReport:
    """Puts together what a fit found.

    Args:
        base: losses are relative to its own.
        models: the rows of the tables; their stages have run.
        main: the recipe's own model, which is among them.
        place: where that is published.
        graph: has the results.
        scores: name of each model to the stage that scored it; empty if there are no tasks.
        tasks: the MTEB tasks, with their data.
        data: the data sets.
        prompts: of the base.
        overlaps: name of each task to what it shares with the training rows.
        remarks: what is to be said of the scores.
        files: lines that say where things are.
    """

    base: Model
    models: Sequence[Model]
    main: Model
    place: str
    graph: StageGraph
    scores: Mapping[str, Score]
    tasks: "Sequence[AbsTask]"
    data: Sequence[SplitTask]
    prompts: SidePrompts
    overlaps: Mapping[str, Overlap]
    remarks: Sequence[str]
    files: Sequence[str]

    def sections(self) -> list[Section]:
        """Return the parts of the report, the verdict first."""
        models = [self.models_table()] if self.rows or self.objectives else []
        models += [self.differences()] if self.verdict.gains else []
        shared = [shared_texts_table(self.overlaps, OVERLAP_LEGEND)] if self.overlaps else []
        data = data_table(self.data, self.prompts, "Rows of each data set:")
        sections = [
            self.verdict.section(),
            Section("The models", tables=models, notes=self.remarks),
            *self.positions(),
            Section("Cost", tables=[cost_table({m.name: m.inputs for m in self.models}, self.scores, self.graph)]),
            Section("The data", tables=[data, *shared]),
            Section("Where things are", notes=self.files),
        ]
        return [section for section in sections if section]

    @cached_property
    def learned(self) -> dict[str, Path]:
        """Name of each learned merge to the folder of its stage."""
        stages = {model.name: model.stage for model in self.models}
        return {name: self.graph.folder(stage) for name, stage in stages.items() if isinstance(stage, Learn)}

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Name of each scored model to its scores."""
        return {name: read_row(self.graph.folder(stage), self.graph.score_cache) for name, stage in self.scores.items()}

    @cached_property
    def objectives(self) -> dict[str, float]:
        """Name of each model to its loss on the probe-validation rows relative to the base's, where that is known."""
        found = {model.name: self._objective(model) for model in [self.base, *self.models]}
        known = {name: objective for name, objective in found.items() if objective is not None}
        return known if len(known) > 1 else {}

    def _objective(self, model: Model) -> float | None:
        if model.name == self.base.name:
            return 1.0
        if isinstance(model.stage, Learn):
            return float(read_json(self.graph.folder(model.stage) / POSITION)["objective"])
        if isinstance(model.stage, FixedMerge) and (
            model.stage.merge.reference or model.stage.merge.start == self.base
        ):
            tried = read_json(self.graph.folder(model.stage) / POSITION).get("tried", [])
            return min((one["objective"] for one in tried), default=None)
        return None

    @cached_property
    def verdict(self) -> Verdict:
        """The model to take."""
        models = {model.name: model for model in [self.base, *self.models]}
        contenders = [self._contender(model) for model in models.values()]
        chosen = choose(contenders, otherwise=self._contender(self.main))
        found = gains(chosen.name, self.rows, self.tasks) if chosen.name in self.rows else {}
        shown = [self.base.name, *self._joint(), "average"]
        remark = "" if chosen.name == self.main.name else f"; {self.place} is {self.main.name}, the recipe's own model"
        return Verdict(chosen, contenders, found, shown, len(self.tasks), remark)

    def _contender(self, model: Model) -> Contender:
        found = contender(model.name, model, self.graph, self.objectives.get(model.name))
        return replace(found, folder=self.place) if model.name == self.main.name else found

    def _joint(self) -> list[str]:
        return [model.name for model in self.models if isinstance(model.stage, Train) and model.stage.joint]

    def models_table(self) -> Table:
        """Return the main table."""
        scores = {model.name: self.rows[model.name].scores if self.rows else {} for model in self.models}
        caption = CAPTION if self.rows else "No tasks were scored."
        return scores_table(scores, caption, self.objectives)

    def differences(self) -> Table:
        """Return how sure the differences are between the chosen model and the others."""
        name = self.verdict.chosen.name
        tasks = [task.metadata.name for task in self.tasks]
        return differences_table(f"{name} minus each other row:", name, self.verdict.gains, tasks)

    def positions(self) -> list[Section]:
        """Return where learned merges stand, and how they got there."""
        if not self.learned:
            return []
        return [
            Section("The positions", tables=[positions_table(self.learned)], pictures=self._way()),
            probe_section(self.learned),
        ]

    def _way(self) -> "list[Picture]":
        folder = self.learned.get(self.main.name)
        if folder is None or not (folder / CoefficientTrace.FILE).is_file():  # fast_dev_run keeps none
            return []
        # matplotlib takes a second to import.
        from lightning_app.report.pictures import styles_of
        from lightning_app.report.position_pictures import position_along_training

        path = read_path(folder)
        return [position_along_training(path.steps, path.coefficients, path.scale, styles_of(path.chosen))]
