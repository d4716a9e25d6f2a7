"""A tiny base model and tiny data sets, from which every test can make a whole run.

Slow imports are in functions: of the processes of ``make test`` the first only hands out tests, and the others wait for
it.
"""

import contextlib
import gc
import io
import json
import logging
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

os.environ["HF_DATASETS_CACHE"] = mkdtemp(prefix="datasets-")  # before datasets is imported: not the user's own
os.environ["HF_HOME"] = mkdtemp(prefix="huggingface-")
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: two processes test at the same time, see the Makefile

import pytest
import yaml

from tests.chromium import NAMES, Chromium, find_chromium

IN_TWO_PROCESSES = (
    *("test_distributed.py", "test_fail_together.py", "test_result_cache.py"),
    *("test_mteb_encoder.py", "test_mteb_callback.py"),
)
"""Files whose tests start two processes, see tests/processes.py: the server of these imports everything, once."""

LONGEST = ("test_oracle.py", *IN_TWO_PROCESSES, "test_study.py", "test_fit.py", "test_minilm_merge.py")
"""Files that take longest go first: of two processes, neither waits for one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each file to one of the processes that test, and those of `IN_TWO_PROCESSES` to the same."""
    from xdist.scheduler import LoadFileScheduling

    class OneServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "in two processes" if Path(file).name in IN_TWO_PROCESSES else file

    return OneServer(config, log)


def pytest_sessionfinish() -> None:
    for cache in ("HF_DATASETS_CACHE", "HF_HOME"):
        shutil.rmtree(os.environ[cache], ignore_errors=True)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny tensors are slower on several threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def frozen_imports() -> None:
    """Spare garbage collection the million objects of imported modules: a run collects after each of its stages."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_screen() -> Iterator[None]:
    """Undo what a run in the process does to the loggers of everything that is said, ``--quiet`` above all."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    handlers = {handler: (handler.formatter, [*handler.filters]) for logger in loggers for handler in logger.handlers}
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    for handler, (formatter, filters) in handlers.items():
        handler.formatter, handler.filters = formatter, filters


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Project:
    """A folder with a base model, two data sets and a recipe that merges two experts on them."""

    def __init__(self, folder: Path) -> None:
        from tests.tiny_encoder import WORDS, tiny_encoder

        self.folder = folder
        self.run_dir = folder / "run"
        self.base = folder / "base"
        tiny_encoder().save(self.base)
        draw = random.Random(0)
        texts = [" ".join(draw.sample(WORDS, 5)) for _ in range(400)]
        write_rows(folder / "qa.jsonl", [{"anchor": t[: len(t) // 2], "positive": t} for t in texts[:150]])
        pairs = [{"sentence1": a, "sentence2": b} for a, b in zip(texts[150:250], texts[250:350], strict=True)]
        write_rows(folder / "sts.jsonl", [row | {"score": draw.random()} for row in pairs])
        self.recipe = folder / "recipe.yaml"
        self.write(self.content())

    def content(self) -> dict[str, Any]:
        training = {"batch_size": 8, "lr": 1e-3, "max_steps": 6}
        return {
            "run_dir": str(self.run_dir),
            "model": {
                "base": str(self.base),
                "experts": {"qa": {"recipe": "qa"}, "sts": {"recipe": "sts"}},
                "search": {"class_path": "modules.Adam", "init_args": {"lr": 0.05}},
                "settled": 0.0,
            },
            "recipes": {
                "qa": {"data": [{"source": str(self.folder / "qa.jsonl")}], **training},
                "sts": {"data": [{"source": str(self.folder / "sts.jsonl")}], **training},
            },
            "probe": {"size": 32, "validation_size": 24, "batch_size": 8},
            "baselines": ["base", "experts", "joint", "average", "slerp", "learned_linear"],
            "position": {"max_epochs": 2},
            "trainer": {
                "accelerator": "cpu",
                "devices": 1,
                "num_sanity_val_steps": 0,
                "enable_progress_bar": False,
                "log_every_n_steps": 1,
            },
        }

    def write(self, content: dict[str, Any]) -> None:
        self.recipe.write_text(yaml.safe_dump(content))

    def stages(self) -> dict[str, Path]:
        """Folders of the stages by kind and name."""
        return {folder.name.rsplit("-", 1)[0]: folder for folder in (self.run_dir / "stages").iterdir()}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished run of the project's recipe, to be read or copied, and what the run printed."""
    from lightning_app.__main__ import main

    project = Project(tmp_path_factory.mktemp("finished"))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["fit", "--config", str(project.recipe)]) == 0
    return project.run_dir, printed.getvalue()


@pytest.fixture
def fitted(project: Project, finished_run: tuple[Path, str]) -> Project:
    """The project with a copy of the finished run."""
    shutil.copytree(finished_run[0], project.run_dir, symlinks=True)
    return project


@pytest.fixture
def experts(project: Project) -> Project:
    """The project with a trained expert of each data set, as far as weights go."""
    from tests.tiny_encoder import tiny_encoder

    for seed, name in enumerate(("qa", "sts"), start=1):
        tiny_encoder(seed=seed).save(project.folder / name)
    return project


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is tokenised to be embedded, as often as it is."""
    from modules.encoding import encode

    seen: list[str] = []
    look_up = encode.look_up

    def noted(tokenizer: Any, max_length: int, known: Any, texts: Any) -> Any:
        seen.extend(text for text in texts if known is None or text not in known)
        return look_up(tokenizer, max_length, known, texts)

    monkeypatch.setattr(encode, "look_up", noted)
    return seen


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep prepared data sets out of the user's cache, and the user's mirror out of the tests."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MTEB_DATA_ROOT", raising=False)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A headless browser with one page."""
    program = find_chromium()
    if program is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)} is on the path")
    browser = Chromium(program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
