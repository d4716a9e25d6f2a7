"""Merges two models that exist already at a position learned on a file of rows, and looks at what was found.

python examples/learned_merge.py BASE A B rows.jsonl merged
"""

import sys

from sentence_transformers import SentenceTransformer

from lightning_app.learn_merge import learn_merge
from modules import Bfgs, SphericalMean

base, first, second, rows, out = sys.argv[1:]
merged = learn_merge(base, {"first": first, "second": second}, [rows], out, method=SphericalMean(), search=Bfgs())
learned = merged.record["learned"]
print(merged.record["coefficients"])
print({model: of["loss"] for model, of in learned["held_out"].items()})
print(learned["gain"])
print(SentenceTransformer(str(merged.folder)).encode(["a text"]).shape)
