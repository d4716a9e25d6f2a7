"""The verb study: the parser of a merge recipe, without a Trainer of its own."""

from contextlib import ExitStack
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks import MtebCallback
from callbacks.mteb.task_cap import full_name
from lightning_app.baselines import MAIN
from lightning_app.evaluate import Scorer
from lightning_app.merge_cli import MergeCLI
from lightning_app.parser import instantiate
from lightning_app.recipe_settings import read_settings
from lightning_app.report import rows_table
from lightning_app.rows_table import prompts_of
from lightning_app.run_lock import locked
from lightning_app.stages import StageGraph, is_main_process
from lightning_app.study.dry_run import plan_table, time_per_text, with_inputs
from lightning_app.study.looks import Looks
from lightning_app.study.recipe import StudyRecipe, check_tasks
from lightning_app.study.report import StudyReport
from lightning_app.study.study import Study
from lightning_app.study.tables import StudyTables
from lightning_app.trainers import TrainerFactory
from modules import UserError

AFTERWARDS = (
    "The other seeds of the best rows, the curves and the landscape come after these: where they are depends on what "
    "these find."
)


class StudyCLI(MergeCLI):
    """Parses a recipe, and runs its study; every Trainer is that of a stage."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(args, run=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """``dry_run`` beside the keys of a recipe."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--dry_run", action="store_true", help="Print the stages and about how long they take.")

    @property
    def section(self) -> Namespace:
        """The configuration."""
        config: Namespace = self.config
        return config

    def before_instantiate_classes(self) -> None:
        """Nothing: every model of a study is a stage's."""

    def instantiate_classes(self) -> None:
        """Nothing, as well."""

    def run(self) -> None:
        """Run the study, or say what it would do.

        Raises:
            UserError: a mistake in the recipe, before anything is trained.
        """
        with ExitStack() as held:
            if not self.section.dry_run:
                held.enter_context(locked(self.section.run_dir))
            self._run()

    def _run(self) -> None:
        section = self.section
        if not self.mteb.selection:
            raise UserError("mteb.tasks is empty: a study compares scores, name the tasks")
        tasks = self.mteb.load()  # what is wrong here shows before training
        graph = StageGraph(section.run_dir, section.fresh and not section.dry_run)
        trainers = TrainerFactory(section.trainer, section.run_dir, int(section.seed_everything))
        recipe: StudyRecipe = instantiate(study=(StudyRecipe, section.study)).study
        check_tasks(recipe, list(section.model.experts), [full_name(task.metadata.name) for task in tasks])
        scorer = Scorer(self.mteb, trainers.device, self.loading)
        study = Study(read_settings(section), recipe, trainers, graph, scorer, self._scorer(trainers))
        stages = with_inputs(study.known_stages())
        for line in [*trainers.remarks(MAIN), *study.pipeline.remarks()]:
            rank_zero_info(line)
        rank_zero_info(f"\n{rows_table(list(study.pipeline.data.tasks.values()), prompts_of(section.model.base))}\n")
        if section.dry_run:
            if is_main_process():
                rate = time_per_text(section.model.base, self.loading, study.pipeline.data, trainers.device)
                print(plan_table(stages, graph, rate))
                print(f"\n{AFTERWARDS}")
            return
        if is_main_process():
            self.save_config()
        study.run()
        looks = Looks(study, self._scorer(trainers, recipe.max_examples, recipe.max_corpus))
        report = StudyReport(study, StudyTables(study, tasks), looks)
        title = f"Study of {section.run_dir}"
        page = report.write(Path(section.run_dir), title)
        if is_main_process():
            print(f"\n{report.tables.main().markdown()}\n\n{report.tables.choices().markdown()}\n\nreport: {page}")

    def _scorer(
        self, trainers: TrainerFactory, max_examples: int | None = None, max_corpus: int | None = None
    ) -> Scorer:
        """The recipe's scoring with other caps."""
        caps = {"max_examples": max_examples, "max_corpus": max_corpus}
        return Scorer(MtebCallback(**self.section.mteb.as_dict() | caps), trainers.device, self.loading)
