"""Scoring saved models on MTEB tasks, or comparing two of them.

A corpus of any size is embedded in chunks: beside the model, memory holds at most the embeddings of 50,000 documents
twice, their similarities to all queries, and up to 128 MB for texts that come again (docs/benchmarks.md).
"""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from callbacks import TaskSelection, load_tasks
from callbacks.mteb.task_prompts import check_prompts
from callbacks.mteb.task_texts import overlaps
from datamodules import DataSource, load_task
from lightning_app.report.evaluation_tables import Scores, comparison, result_tables
from lightning_app.report.rows_table import OVERLAP_LEGEND, shared_texts_table
from lightning_app.stages.model_loading import ModelLoading, is_plain
from lightning_app.stages.scorer import score_tasks
from lightning_app.unique_names import short_name
from modules import UserError
from modules.checkpoints.base_model import find_base_model, is_hub_name
from modules.encoding.tokenized_texts import TokenizedTexts

if TYPE_CHECKING:
    from mteb import AbsTask


def evaluate_models(options: argparse.Namespace) -> str:
    """Score the models that are asked for, and return what there is to say of them.

    Args:
        options: of the verb ``evaluate``, with its prompts read.

    Raises:
        UserError: a model, a task, a device or rows are not there.
    """
    device = _device(options.device)
    models = options.compare or [options.model]
    for model in models:
        find_base_model(model)  # what is wrong here shows before any data is read
    training = [load_task(DataSource(file)) for file in options.training_data]
    check_prompts(options.prompts)
    selection = TaskSelection(**{field.name: getattr(options, field.name) for field in fields(TaskSelection)})
    tasks = load_tasks(selection, options.data_root)
    tokenized = TokenizedTexts()
    # Of two models one may say its own pooling, the other none; a pooling that no model waits for is a mistake.
    base = None if any(map(is_plain, models)) else models[0]
    loading = ModelLoading(options.pooling, options.trust_remote_code, base, options.attn_implementation)
    found = [evaluate_model(model, tasks, device, tokenized, loading, options) for model in models]
    said = comparison(tasks, models, *found) if options.compare else result_tables(tasks, found[0])
    if training:
        said += f"\n\n{OVERLAP_LEGEND}\n\n{shared_texts_table(overlaps(tasks, training)).markdown()}"
    return said


def evaluate_model(
    model: str,
    tasks: "list[AbsTask]",
    device: torch.device,
    tokenized: TokenizedTexts,
    loading: ModelLoading,
    options: argparse.Namespace,
) -> Scores:
    """Score one model, task by task; tasks whose results lie in ``--out`` are taken from there."""
    name, found = model_name(model), Scores({}, {}, {})
    scored = score_tasks(
        loading.load(model).to(device),
        model,
        tasks,
        Path(options.out),
        lambda _: name,
        prompts=options.prompts,
        precision=options.precision,
        tokenized=tokenized,
        batch_size=options.batch_size,
    )
    for task in scored:
        found.scores[task.task], found.seconds[task.task] = task.score, task.seconds
        found.examples[task.task] = task.examples
        print(f"{name}: {task.task} {task.score:.2f}", flush=True)
    return found


def model_name(model: str) -> str:
    """Return the name of a model in result files: its hub name, or ``local/<folder>``."""
    if is_hub_name(model):
        return model
    return f"local/{short_name(model)}"


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device
