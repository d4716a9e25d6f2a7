"""Lets sentence-transformers be imported where the package datasets is not installed.

Its trainer, of which nothing is used here, names classes of datasets as soon as sentence-transformers is imported.
"""

import importlib.util
import sys
import tempfile
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

CLASSES = ("Column", "Dataset", "DatasetDict", "IterableDataset", "IterableDatasetDict", "Sequence", "Value")


def stand_in_for_datasets() -> None:
    """Put a module with the classes that are imported in the place of datasets, if there is none."""
    if importlib.util.find_spec("datasets") is not None:
        return
    module = ModuleType("datasets")
    module.__spec__ = ModuleSpec("datasets", None)
    module.__dict__["__version__"] = "0"
    for name in CLASSES:
        setattr(module, name, type(name, (), {}))
    # Tokens of the rows are kept here.
    module.__dict__["config"] = SimpleNamespace(HF_DATASETS_CACHE=tempfile.mkdtemp(prefix="gpu-rows-"))
    sys.modules["datasets"] = module
