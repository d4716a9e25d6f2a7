"""What every training takes of the section ``trainer``: loggers under its own name, callbacks, settings that count."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger

from lightning_app.recipe.recipe_parser import parse
from lightning_app.recipe.recipe_settings import as_json
from lightning_app.stages.trainer_settings import SharedTrainer, TrainerSettings, finish_loggers
from modules import Adam, Bfgs


class Run:
    """What a tracker of experiments has open, until it is finished."""

    finished: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        self.name = name

    def finish(self) -> None:
        self.finished.append(self.name)


class Tracker(Logger):
    """A logger as that of Weights & Biases: what is open in a process is gone on with unless it is finished."""

    def __init__(self, project: str, name: str | None = None, save_dir: str = ".", version: str | None = None) -> None:
        super().__init__()
        self.project, self.given, self.save, self._version = project, name, save_dir, version
        self.experiment = Run(name or "")

    @property
    def name(self) -> str | None:
        return self.given

    @property
    def version(self) -> str | None:
        return self._version

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    def log_metrics(self, *_: Any, **__: Any) -> None:
        pass


def shared(tmp_path: Path, **section: Any) -> SharedTrainer:
    config = parse("fit", ["--config", "quickstart", "--trainer.accelerator", "cpu"])
    return SharedTrainer(as_json(config.trainer) | section, str(tmp_path), 0)


def loggers(settings: TrainerSettings, label: str) -> list[Any]:
    return settings.make(label, []).loggers


def test_each_training_logs_under_its_own_name(tmp_path: Path) -> None:
    [tensorboard] = loggers(shared(tmp_path).of_expert({}), "sts")
    assert isinstance(tensorboard, TensorBoardLogger) and Path(tensorboard.log_dir) == tmp_path / "logs" / "sts"
    given = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path / "csv")}}
    found = [loggers(shared(tmp_path, logger=given).of_expert({}), name)[0] for name in ("sts", "qa")]
    assert all(isinstance(logger, CSVLogger) for logger in found)
    assert [Path(logger.log_dir) for logger in found] == [tmp_path / "csv" / "logs" / name for name in ("sts", "qa")]


def test_a_tracker_has_the_name_of_the_training_and_is_finished_with_it(tmp_path: Path) -> None:
    tracker = {"class_path": f"{__name__}.Tracker", "init_args": {"project": "merges"}}
    trainer = shared(tmp_path, logger=[tracker]).of_expert({}).make("sts", [])
    [logger] = trainer.loggers
    assert isinstance(logger, Tracker) and (logger.name, logger.version) == ("sts", None)
    assert logger.save == str(tmp_path)
    Run.finished.clear()
    finish_loggers(trainer)
    assert Run.finished == ["sts"]


def test_callbacks_are_made_anew_and_those_that_follow_scores_are_where_scores_are(tmp_path: Path) -> None:
    own = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val/loss"}}
    follow = own | {"init_args": {"monitor": "mteb/average"}}
    trainer = shared(tmp_path, callbacks=[own, follow])
    settings = trainer.of_expert({})
    stops = [[c for c in settings.make("x", []).callbacks if isinstance(c, EarlyStopping)] for _ in range(2)]  # type: ignore[attr-defined]
    assert [[stop.monitor for stop in made] for made in stops] == [["val/loss"], ["val/loss"]]
    assert stops[0][0] is not stops[1][0]
    assert trainer.following_scores() == ["EarlyStopping follows mteb/average"]
    counted = [trainer.of_position({}, Bfgs(), scored=scored).counted["callbacks"] for scored in (True, False)]
    assert [len(callbacks) for callbacks in counted] == [2, 1]


@pytest.mark.parametrize(("search", "keys"), [(Bfgs(), ["accumulate_grad_batches", "gradient_clip_val"]), (Adam(), [])])
def test_a_search_on_the_whole_probe_has_no_use_for_mini_batches(tmp_path: Path, search: Any, keys: list[str]) -> None:
    trainer = shared(tmp_path, accumulate_grad_batches=4)
    own = {"gradient_clip_val": 1.0, "max_epochs": 3}
    assert trainer.unusable(own, search) == keys
    counted = trainer.of_position(own, search, scored=False).counted
    assert (counted["accumulate_grad_batches"], counted["gradient_clip_val"]) == ((1, None) if keys else (4, 1.0))
    assert counted["max_epochs"] == 3
