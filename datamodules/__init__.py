"""Data sets: read, split without leaks, and served in batches of one data set each."""

from datamodules.batching import OneTaskBatches, ResumableLoader, apportion, evaluation_batches
from datamodules.collate import Collator
from datamodules.mirror import mirrored_path
from datamodules.probe_datamodule import ProbeDataModule
from datamodules.python_docs import load_python_docs
from datamodules.splits import SplitTask, load_tasks, named_sources
from datamodules.task_data import TaskData
from datamodules.task_datamodule import TaskDataModule
from datamodules.text_ids import text_id
from datamodules.text_lines import read_lines
from datamodules.text_sources import DataSource, load_task

__all__ = [
    "Collator",
    "DataSource",
    "OneTaskBatches",
    "ProbeDataModule",
    "ResumableLoader",
    "SplitTask",
    "TaskData",
    "TaskDataModule",
    "apportion",
    "evaluation_batches",
    "load_python_docs",
    "load_task",
    "load_tasks",
    "mirrored_path",
    "named_sources",
    "read_lines",
    "text_id",
]
