"""Embeds texts with whatever sentence-transformers is installed; run by the tests in an environment of its own.

python tests/older/embed.py texts.json out.json folder ...
"""

import json
import sys
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer


def main() -> None:
    """Write the embeddings of the texts by each folder, or why there are none."""
    texts, out, *folders = sys.argv[1:]
    found = {}
    for folder in folders:
        try:
            model = SentenceTransformer(folder, device="cpu", model_kwargs={"torch_dtype": torch.float32})
            found[folder] = model.encode(json.loads(Path(texts).read_text())).tolist()
        except Exception as error:  # the test says which, and for which family
            found[folder] = f"{type(error).__name__}: {error}"
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
