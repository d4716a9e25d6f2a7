"""Data sets: read, split without leaks, and served in batches of one data set each."""

from datamodules.batching import OneTaskBatches, ResumableLoader, apportion, evaluation_batches
from datamodules.collate import Collator
from datamodules.probe_datamodule import ProbeDataModule
from datamodules.sources import DataSource, load_python_docs, load_task, mirrored_path, read_lines
from datamodules.splits import SplitTask, load_tasks, named_sources
from datamodules.task_data import TaskData
from datamodules.task_datamodule import TaskDataModule
from datamodules.text_column import TextColumn
from datamodules.text_ids import text_id

__all__ = [
    "Collator",
    "DataSource",
    "OneTaskBatches",
    "ProbeDataModule",
    "ResumableLoader",
    "SplitTask",
    "TaskData",
    "TaskDataModule",
    "TextColumn",
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
