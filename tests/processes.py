"""Processes that run together, as a launcher would start them."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

SLOW_IMPORTS = ["lightning", "transformers", "datasets", "mteb", "callbacks", "datamodules", "modules.merge_module"]


def forkserver() -> str:
    """The start method of processes that find the slow imports done: they are forked from a process that did them."""
    multiprocessing.set_forkserver_preload(SLOW_IMPORTS)
    return "forkserver"


def in_two_processes(function: Callable[..., Any], *arguments: Any) -> None:
    """Run ``function(rank, *arguments)`` twice at the same time, and raise what either raises."""
    mp.start_processes(function, arguments, nprocs=2, start_method=forkserver())
