"""Merges safetensors files with mergekit; runs in mergekit's environment, not in ours.

Every line of its input is a job: JSON with ``method``, ``models`` (id to file), ``base`` (an id or null),
``parameters`` (a number, or id to number) and ``out``, the file to write; it answers ``done``, or what went wrong.
``draws`` may name a file of numbers in [0, 1) that take the place of its random ones, mask by mask in their order.
mergekit-yaml itself stops at BERT (0.1.5: ``TypeError`` in plan.py), so this calls the function behind it.
"""

import json
import sys
from typing import Any
from unittest.mock import patch

import torch
from mergekit.merge_methods import merge_state_dicts
from safetensors.torch import load_file, save_file


def merge(job: dict[str, Any]) -> str:
    models = {name: load_file(file) for name, file in job["models"].items()}
    torch.manual_seed(0)
    drawn = iter(load_file(job["draws"]).values()) if job["draws"] else iter(())

    def bernoulli(probabilities: torch.Tensor) -> torch.Tensor:
        return (next(drawn).view_as(probabilities) < probabilities).to(probabilities)

    try:
        with torch.no_grad(), patch("torch.bernoulli", bernoulli if job["draws"] else torch.bernoulli):
            merged = merge_state_dicts(models, job["method"], parameters=job["parameters"], base=job["base"])
    except Exception as error:  # the test says what it was
        return repr(error)
    save_file({name: tensor.contiguous() for name, tensor in merged.items()}, job["out"])
    return "done"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(merge(json.loads(line)), flush=True)
