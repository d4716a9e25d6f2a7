"""Merges safetensors files with mergekit; runs in mergekit's environment, not in ours.

``run_mergekit.py JOB OUT``, where JOB is a JSON file with ``method``, ``models`` (id to file), ``base`` (an id or null)
and ``parameters`` (a number, or id to number). mergekit-yaml itself stops at BERT (0.1.5: ``TypeError`` in plan.py), so
this calls the function behind it.
"""

import json
import sys
from pathlib import Path

import torch
from mergekit.merge_methods import merge_state_dicts
from safetensors.torch import load_file, save_file


def main(job_file: str, out: str) -> None:
    job = json.loads(Path(job_file).read_text())
    models = {name: load_file(file) for name, file in job["models"].items()}
    torch.manual_seed(0)
    with torch.no_grad():
        merged = merge_state_dicts(models, job["method"], parameters=job["parameters"], base=job["base"])
    save_file({name: tensor.contiguous() for name, tensor in merged.items()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
