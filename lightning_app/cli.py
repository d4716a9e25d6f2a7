"""The verbs fit, validate, test and predict, on LightningCLI."""

import logging
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from jsonargparse import Namespace
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks import CostMeter, MtebCallback, ResumableRun, StageProgressBar
from callbacks.mteb.task_texts import overlaps
from datamodules import SplitTask
from lightning_app.evaluate import Scorer, scoring_content
from lightning_app.finished import finished_model, publish
from lightning_app.loading import Loading
from lightning_app.model import Model
from lightning_app.parser import OneLineParser
from lightning_app.predict import predict, read_texts
from lightning_app.report import report, rows_table, score_table
from lightning_app.rows_table import prompts_of
from lightning_app.run_lock import locked
from lightning_app.stages import Stage, StageGraph, is_main_process
from lightning_app.trainers import TrainerFactory, as_json
from modules import UserError
from modules.checkpoints.whole import is_whole
from modules.embedding_module import EmbeddingModule

CHATTER = (
    "GPU available",
    "TPU available",
    "💡 Tip",
    "Loading `train_dataloader` to estimate",
    "`Trainer.fit` stopped",
)
"""What Lightning would say anew at every stage."""

REMARKS = (
    ".*LightningCLI's args parameter.*",
    ".*does not have many workers.*",
    r".*module\(s\) in eval mode at the start of training.*",  # a position is trained in evaluation mode
    ".*Metric `SpearmanCorrcoef` will save all targets.*",
)
"""Warnings about what is meant to be so."""


class AppCLI(LightningCLI):
    """What recipes of a merge and of a single expert share.

    Stages that come before the outer Trainer run in `before_instantiate_classes`; `fit` runs the outer Trainer as one
    stage more.
    """

    description = "Train."

    def __init__(
        self,
        model_class: type[LightningModule],
        data_class: type[LightningDataModule],
        args: list[str],
        run: bool = True,
    ) -> None:
        self.stage: Stage | None = None
        with ExitStack() as self.held:  # what ends with the verb
            super().__init__(
                model_class,
                data_class,
                save_config_callback=None,  # written by `save_config`, also where an older one lies
                seed_everything_default=0,
                parser_class=OneLineParser,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                args=args,
                run=run,
            )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs, and the arguments of the Trainer's methods that they do not take from the command line."""
        loaders = {"model", "dataloaders", "datamodule"}
        return {
            # Where to go on from is in the run folder.
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "ckpt_path", "weights_only"},
            "validate": {*loaders, "weights_only"},
            "test": {*loaders, "verbose", "weights_only"},
            "predict": {*loaders, "return_predictions", "weights_only"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Keys beside ``model``, ``data`` and ``trainer``."""
        parser.add_argument("--run_dir", type=str, default="runs/run", help="Everything that a run makes goes here.")
        parser.add_argument("--fresh", action="store_true", help="Forget the results in run_dir first.")
        parser.add_lightning_class_args(MtebCallback, "mteb")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("test", "predict"):
            parser.add_argument("--folder", type=str | None, default=None, help="A model folder; else the run's model.")
        if subcommand == "predict":
            parser.add_argument("--texts", type=str, help="A file with one text a line.")
            prompts = "A prompt of the model by name, as `query`; else its default prompt."
            parser.add_argument("--prompt_name", type=str | None, default=None, help=prompts)
            parser.add_argument("--prompt", type=str | None, default=None, help="What goes before every text instead.")
            parser.add_argument("--out", type=str, help="The safetensors file to write: `embeddings` [texts, dim].")
        return parser

    def _parse_ckpt_path(self) -> None:
        """Nothing: a checkpoint says nothing of the recipe, and a damaged one is told of by `load_weights`."""

    @property
    def section(self) -> Namespace:
        """The configuration of the verb."""
        section: Namespace = self.config[self.subcommand]
        return section

    @property
    def mteb(self) -> MtebCallback:
        """The settings of the scoring, as the callback has them."""
        return MtebCallback(**self.section.mteb.as_dict())

    @property
    def loading(self) -> Loading:
        """How the models of the run are loaded."""
        model = self.section.model
        return Loading(model.pooling, model.trust_remote_code, model.base, model.attn_implementation)

    def before_instantiate_classes(self) -> None:
        """Make what every run has: its folder, its configuration, its stages."""
        section, fits = self.section, self.subcommand == "fit"
        if fits:
            self.held.enter_context(locked(section.run_dir))
            if is_main_process():
                self.save_config()
            self.mteb.load()  # what is wrong here shows before training
        self.graph = StageGraph(section.run_dir, section.fresh and fits)
        self.trainers = TrainerFactory(section.trainer, section.run_dir, int(section.seed_everything), self.own())
        # `test` and `predict` need the finished model only, unless they are told of a checkpoint.
        if fits or self.subcommand == "validate" or (section.ckpt_path and not section.folder):
            self.stage = self.prepare()

    def own(self) -> dict[str, Any]:
        """Return what only the outer Trainer's stage has in its key: callbacks, and scores that they follow."""
        given = as_json(self.section.trainer.callbacks) or []
        callbacks = given if isinstance(given, list) else [given]
        content: dict[str, Any] = {"callbacks": callbacks} if callbacks else {}
        if any(str((callback.get("init_args") or {}).get("monitor")).startswith("mteb/") for callback in callbacks):
            if not self.mteb.scheduled:
                hint = "give mteb.every_n_epochs"
                raise UserError(
                    f"trainer.callbacks: a callback follows MTEB scores, and none are taken in training; {hint}"
                )
            schedule = {key: vars(self.mteb)[key] for key in ("every_n_epochs", "every_n_steps", "at_start", "at_end")}
            content["mteb"] = scoring_content(self.mteb) | schedule
        return content

    def prepare(self) -> Stage:
        """Run the stages that the model needs, and return the one that the outer Trainer trains."""
        raise NotImplementedError

    def instantiate_classes(self) -> None:
        """Nothing is built to score or use a finished model."""
        if self.stage is not None:
            super().instantiate_classes()
        else:
            self.config_init, self.model, self.datamodule = self.config, None, None
            self.trainer = self.trainers.make(str(self.subcommand), [])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The outer Trainer."""
        section = self.section.trainer
        callbacks = self._get(self.config_init, "trainer").get("callbacks") or []
        own = any(isinstance(c, Checkpoint) for c in (callbacks if isinstance(callbacks, list) else [callbacks]))
        if not own and section.enable_checkpointing is None:
            kwargs["enable_checkpointing"] = False  # the resumable run keeps its own
        if section.default_root_dir is None:
            kwargs["default_root_dir"] = self.section.run_dir
        if section.logger in (None, True):
            kwargs["logger"] = self.trainers.logger(self.stage.name if self.stage else str(self.subcommand))
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        assert self.stage is not None
        callbacks = [callback for callback in callbacks if not isinstance(callback, MtebCallback) or callback.scheduled]
        bar = [] if config.get("enable_progress_bar") is False else [StageProgressBar(self.stage.name)]
        return super()._instantiate_trainer(config, [*callbacks, *bar, *self.stage_callbacks()])

    def stage_callbacks(self) -> list[Callback]:
        """Callbacks of the outer Trainer that belong to its stage's folder."""
        assert self.stage is not None
        folder = self.graph.folder(self.stage)
        return [ResumableRun(folder), CostMeter(folder)]

    def save_config(self) -> None:
        """Write the resolved configuration to ``<run_dir>/config.yaml``."""
        folder = Path(self.section.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        dumped = self._parser(self.subcommand).dump(self.section.clone(), skip_none=False)
        (folder / "config.yaml").write_text(dumped, encoding="utf-8")

    def finish(self, models: list[Model]) -> None:
        """Publish the last of the models, score all on the recipe's MTEB tasks, and write and print the report."""
        place = publish(self.section.run_dir, models[-1].folder(self.graph)) if is_main_process() else ""
        mteb = self.mteb
        scorer = Scorer(mteb, self.trainer.strategy.root_device, self.loading)
        stages = {model.name: scorer.stage(model, self.graph) for model in models} if mteb.selection else {}
        for stage in stages.values():
            self.graph.run(stage)
        tasks = mteb.load()
        if is_main_process():
            notes = [
                *self.followed_tests(),
                place,
                f"curves: tensorboard --logdir {self.section.run_dir}/logs",
            ]
            shared = overlaps(tasks, [part for task in self.data_sets() for part in (task.expert, task.probe)])
            text = report(
                f"Report of {self.section.run_dir}",
                models,
                stages,
                self.graph,
                notes,
                shared,
                self.data_sets(),
                prompts_of(self.section.model.base),
            )
            (Path(self.section.run_dir) / "report.md").write_text(text, encoding="utf-8")
            print(f"\n{text}")

    def data_sets(self) -> list[SplitTask]:
        """All data sets that anything in this run trains on."""
        raise NotImplementedError

    def show_rows(self) -> None:
        """Say before training which rows of each data set go where."""
        if self.subcommand == "fit":
            rank_zero_info(f"\n{rows_table(self.data_sets(), prompts_of(self.section.model.base))}\n")

    def followed_tests(self) -> list[str]:
        """A line for every callback of the recipe's that goes by a score on a test task."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        monitors = [(type(callback).__name__, getattr(callback, "monitor", None) or "") for callback in callbacks]
        return [
            f"{name} follows {monitor}, by the recipe's choice: what it chooses is fitted to those tasks, and their "
            "scores above are no longer those of held-out data"
            for name, monitor in monitors
            if monitor.startswith("mteb/")
        ]

    def validate(self, model: LightningModule, datamodule: LightningDataModule, **options: Any) -> None:
        """Lightning's, on the run's own checkpoint if no other is named."""
        self.load_weights(options.pop("ckpt_path"))
        self.trainer.validate(model, datamodule=datamodule, **options)

    def test(self, ckpt_path: str | None, **_: Any) -> None:
        """Score the run's model, a checkpoint of it, or a folder, on the recipe's MTEB tasks."""
        if not self.mteb.selection:
            raise UserError("mteb.tasks is empty: name the tasks to test on")
        encoder = self.find_encoder(ckpt_path)
        scorer = Scorer(self.mteb, self.trainer.strategy.root_device, self.loading)
        scores = scorer.score_encoder(encoder, name="local/model")
        if is_main_process():
            print(score_table({self.section.folder or ckpt_path or self.section.run_dir: scores}))

    def predict(self, ckpt_path: str | None, **_: Any) -> None:
        """Embed the lines of a text file."""
        texts = read_texts(self.section.texts, self.section.out)
        section = self.section
        predict(self.find_encoder(ckpt_path), texts, section.out, section.prompt, section.prompt_name)

    def find_encoder(self, ckpt_path: str | None) -> Any:
        """The encoder that ``--folder``, ``--ckpt_path`` or the run folder names, on the Trainer's device."""
        device = self.trainer.strategy.root_device
        if self.stage is None:
            return self.loading.load(self.section.folder or finished_model(self.section.run_dir)).to(device)
        self.load_weights(ckpt_path)
        assert isinstance(self.model, EmbeddingModule)
        return self.model.encoder.to(device)

    def load_weights(self, ckpt_path: str | None) -> None:
        """Load a checkpoint into the model, as Lightning would.

        Raises:
            UserError: there is none, or half of one.
        """
        assert self.stage is not None
        path = Path(ckpt_path) if ckpt_path else self.graph.folder(self.stage) / "last.ckpt"
        if not path.is_file():
            hint = "" if ckpt_path else "; run fit first, or name one with --ckpt_path"
            raise UserError(f"there is no checkpoint {path}{hint}")
        if not is_whole(path):
            hint = "name another one" if ckpt_path else "run fit again, which makes it anew"
            raise UserError(f"{path} is damaged, or no checkpoint: {hint}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        self.model.on_load_checkpoint(checkpoint)
        self.model.load_state_dict(checkpoint["state_dict"], strict=self.model.strict_loading)


def is_merge_recipe(path: str) -> bool:
    """Return whether a recipe merges experts; else it trains a single one."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise UserError(f"{path}: a recipe has a section 'model'")
    return "experts" in content["model"]


def quiet_libraries() -> None:
    """Keep the screen to what a user of this application wants to see."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(lambda record: not record.getMessage().startswith(CHATTER))
    for message in REMARKS:
        warnings.filterwarnings("ignore", message)
