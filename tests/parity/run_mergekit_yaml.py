"""Merges with a mergekit configuration, as mergekit-yaml does; runs in mergekit's environment, not in ours.

mergekit 0.1.5 stops at BERT: in its plan.py it adds a tuple of aliases to a list, which is made a list here.
"""

import inspect
import sys

import mergekit.plan
import yaml

SOURCE = inspect.getsource(mergekit.plan).replace("(w_in.aliases or [])", "list(w_in.aliases or [])")
exec(compile(SOURCE, mergekit.plan.__file__, "exec"), mergekit.plan.__dict__)

from mergekit.config import MergeConfiguration  # noqa: E402, because it comes after the patch
from mergekit.merge import run_merge  # noqa: E402
from mergekit.options import MergeOptions  # noqa: E402

if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        configuration = MergeConfiguration.model_validate(yaml.safe_load(file))
    run_merge(configuration, sys.argv[2], MergeOptions(copy_tokenizer=False, quiet=True))
