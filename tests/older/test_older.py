"""A saved model gives the same embeddings in sentence-transformers 5.3 on transformers 4.57 as in the newest."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modules import TextEncoder
from tests.tiny_families import FAMILIES, save_family
from tests.tiny_families import TEXTS as ALL_TEXTS

TEXTS = [text.strip() for text in ALL_TEXTS]  # the older library strips them

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-older" / "bin" / "python"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, list[list[float]] | str]]:
    """Family to our embeddings and the older library's, of the folder that we saved."""
    if not PYTHON.is_file():
        pytest.skip("needs tests/older/make_environment.sh (sentence-transformers 5.3, transformers 4.57)")
    folder = tmp_path_factory.mktemp("older")
    ours = {}
    for family in FAMILIES:
        encoder = TextEncoder.load(save_family(family, folder / f"{family}-base"))
        encoder.save(folder / family)
        ours[family] = encoder.encode(TEXTS)
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    files = [folder / "texts.json", folder / "out.json", *(folder / family for family in FAMILIES)]
    subprocess.run([PYTHON, ROOT / "tests" / "older" / "embed.py", *files], check=True)
    theirs = json.loads((folder / "out.json").read_text())
    return {family: (ours[family], theirs[str(folder / family)]) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_older_library_embeds_alike(
    family: str, embedded: dict[str, tuple[Tensor, list[list[float]] | str]]
) -> None:
    ours, theirs = embedded[family]
    assert not isinstance(theirs, str), theirs
    assert (ours - torch.tensor(theirs)).norm(dim=1).max() <= 1e-5 * ours.norm(dim=1).max()
