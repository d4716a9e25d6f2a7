"""Sources of rows: files, folders, saved data sets, the hub, and Python's own documentation."""

from datamodules.sources.data_source import DataSource
from datamodules.sources.mirror import mirrored_path
from datamodules.sources.python_docs import load_python_docs
from datamodules.sources.task_loading import load_task
from datamodules.sources.text_lines import read_lines

__all__ = ["DataSource", "load_python_docs", "load_task", "mirrored_path", "read_lines"]
