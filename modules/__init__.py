"""Tensor maths, nn.Modules and LightningModules of the merge; needs neither datasets, mteb nor jsonargparse.

Names are imported when they are first used: merging files must not wait for transformers and Lightning. Each is listed
once, as an import in the stub `__init__.pyi`: type checkers read it as it is, and here it says where a name is found.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text())
_HOMES = {name.name: line.module for line in _STUB.body if isinstance(line, ast.ImportFrom) for name in line.names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return list(__all__)
