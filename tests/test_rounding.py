"""What a narrow dtype would lose of a merge: measured, avoided where it is the user's neither wish nor gain, said."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modules import Average, Slerp, TaskArithmetic, UserError
from modules.merging import MergeMethod
from modules.on_disk.merge_files import merge_files
from modules.on_disk.plan import Plan
from modules.on_disk.rounding import Rounding
from tests.tiny_checkpoints import State, edit_json, flat, read_weights, save_models, write_weights


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A base in bfloat16, and two experts in float32 that are a very small step away from it."""
    base, experts = save_models(tmp_path)
    state = {key: weight.bfloat16() for key, weight in read_weights(base).items()}
    write_weights(base, state)
    edit_json(tmp_path / "base" / "config.json", dtype="bfloat16")
    for i, folder in enumerate(experts.values()):
        write_weights(folder, moved(state, 2e-5, seed=i))
    return tmp_path


def moved(state: State, amount: float, seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {k: w.float() + amount * torch.randn(w.shape, generator=generator) for k, w in state.items()}


def merge(models: Path, method: MergeMethod | None = None, **options: Any) -> tuple[State, Any, list[str]]:
    lines: list[str] = []
    experts = {name: str(models / name) for name in ("e0", "e1")}
    plan = Plan(str(models / "base"), experts, method or Average(), **options)
    record = merge_files(plan, models / "out", lines.append)
    return read_weights(models / "out"), record, [line for line in lines if "round" in line]


def obvious_loss(models: Path, exact: State, dtype: torch.dtype) -> float:
    """Of a merge in full precision, rounded."""
    base = read_weights(models / "base")
    rounded = {key: weight.float().to(dtype) for key, weight in exact.items()}
    return float(np.linalg.norm(flat(rounded) - flat(exact)) / np.linalg.norm(flat(exact) - flat(base)))


def dtype_in_config(models: Path) -> str:
    return str(json.loads((models / "out" / "config.json").read_text())["dtype"])


@pytest.mark.parametrize("method", [Average(), Slerp()])
def test_what_a_narrow_base_would_lose_is_kept_in_float32(method: MergeMethod, models: Path) -> None:
    merged, record, lines = merge(models, method)
    assert {weight.dtype for weight in merged.values()} == {torch.float32}
    assert dtype_in_config(models) == record["dtype"] == "float32"
    expected = obvious_loss(models, merged, torch.bfloat16)
    assert record["rounding"] == {"dtypes": ["bfloat16"], "lost": pytest.approx(expected, rel=1e-3)}
    assert lines == [f"bfloat16 would round away {expected:.0%} of the merged task vector: written in float32"]
    assert expected > 0.5


@pytest.mark.parametrize(("dtype", "lossy"), [(torch.bfloat16, True), (torch.float16, True), (torch.float32, False)])
def test_what_an_insisted_dtype_loses_is_said(dtype: torch.dtype, lossy: bool, models: Path) -> None:
    merged, record, lines = merge(models, dtype=dtype)
    assert {weight.dtype for weight in merged.values()} == {dtype}
    name = str(dtype)[6:]
    assert dtype_in_config(models) == record["dtype"] == name
    if lossy:
        experts = [read_weights(models / name) for name in ("e0", "e1")]
        exact = {key: (experts[0][key].double() + experts[1][key].double()) / 2 for key in merged}
        expected = obvious_loss(models, exact, dtype)
        assert record["rounding"] == {"dtypes": [name], "lost": pytest.approx(expected, rel=1e-3)}
        assert lines == [f"{name}, as --dtype says, rounds away {expected:.0%} of the merged task vector"]
    else:
        assert lines == [] and "rounding" not in record


def test_a_narrow_base_stays_as_it_is_where_little_is_lost(models: Path) -> None:
    state = read_weights(models / "base")
    for i in range(2):  # a task vector beside which rounding is small, and one that is zero
        write_weights(
            models / f"e{i}",
            {k: (2.0 - i) * w.float() if "dense.weight" in k else w.float() for k, w in state.items()},
        )
    merged, record, lines = merge(models, TaskArithmetic(), allow_suspicious=True)
    assert {weight.dtype for weight in merged.values()} == {torch.bfloat16}
    assert dtype_in_config(models) == "bfloat16" and record["dtype"] == "as in the base"
    assert 0 < record["rounding"]["lost"] < 0.01 and lines == []


def test_untouched_tensors_of_a_base_in_float32_are_not_rounded_either_way(models: Path) -> None:
    state = read_weights(models / "base")
    write_weights(models / "base", {key: weight.float() for key, weight in state.items()})
    merged, record, lines = merge(models)
    assert {weight.dtype for weight in merged.values()} == {torch.float32}
    assert lines == [] and "rounding" not in record


def test_measuring_does_not_change_what_is_suspicious(models: Path) -> None:
    """Tensors that are read twice count once."""
    state = read_weights(models / "base")
    length = np.linalg.norm(flat(state))
    direction = moved({key: torch.zeros_like(weight) for key, weight in state.items()}, 1.0, seed=7)
    factor = 0.6 * length / np.linalg.norm(flat(direction))
    write_weights(models / "e1", {key: state[key].float() + factor * direction[key] for key in state})
    with pytest.raises(UserError, match=f"does not come from this base: .*the base {re.escape(f'{length:.4g}')}"):
        merge(models)


def test_no_task_vector_loses_nothing(models: Path) -> None:
    merged, record, lines = merge(models, scale=0.0)
    assert {weight.dtype for weight in merged.values()} == {torch.bfloat16}
    assert record["rounding"]["lost"] == 0.0 and lines == []


def test_factors_of_an_adapter_lose_what_its_error_says(models: Path) -> None:
    state = read_weights(models / "base")
    key = "encoder.layer.0.intermediate.dense.weight"
    for i in range(2):
        write_weights(models / f"e{i}", {k: w.float() for k, w in state.items()} | {key: moved(state, 1e-3, i)[key]})
    errors = {}
    for dtype in (torch.float32, torch.bfloat16):
        _, record, _ = merge(models, adapter_rank=16, dtype=dtype)
        errors[dtype] = record["adapter"]["error"]
        (models / "out").rename(models / str(dtype))
    assert errors[torch.float32] < 1e-5 < 1e-3 < errors[torch.bfloat16] < 1e-2


def test_the_loss_is_that_of_all_tensors_together() -> None:
    torch.manual_seed(0)
    base, merged = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    rounding = Rounding()
    for one, other, dtype in zip(base, merged, (torch.bfloat16, torch.float32), strict=True):
        rounding.add(one, other, dtype)
    rounded = torch.stack([merged[0].bfloat16().float(), merged[1]])
    assert rounding.lost == pytest.approx(float((rounded - merged).norm() / (merged - base).norm()), rel=1e-5)
    assert rounding.dtypes == ["bfloat16"]
