"""Trains an expert for each data set and merges them at a position learned on rows that no expert has seen.

python examples/train_and_merge.py BASE merged faq.jsonl similarity.csv
"""

import sys
from pathlib import Path

from lightning import Trainer

from datamodules import ProbeDataModule, TaskDataModule, load_tasks
from modules import ContrastiveModule, MergeModule

base, out, *files = sys.argv[1:]
tasks = load_tasks({Path(file).stem: file for file in files}, probe_size=64, validation_size=32)
experts = {name: f"{out}-experts/{name}" for name in tasks}
for name, task in tasks.items():
    expert = ContrastiveModule(base)
    Trainer(max_steps=50, logger=False).fit(expert, datamodule=TaskDataModule([task]))
    expert.save(experts[name])
merge = MergeModule(base, experts)
probe = ProbeDataModule(list(tasks.values()), size=64 * len(tasks), validation_size=32 * len(tasks))
Trainer(max_epochs=40, logger=False).fit(merge, datamodule=probe)
merge.save(out)
print(merge.describe_position())
print(f"the search {merge.best.ending}, at {merge.best.objective:.3f} of the base's loss")
