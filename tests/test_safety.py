"""Merges that are refused because what they give looks right and is wrong, and those just beside them that are not."""

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.compatibility.safety import refuse_other_ancestors, refuse_suspicious
from modules.errors import UserError

NAMES = ["qa", "sts", "code"]


def vectors() -> Tensor:
    """Three task vectors of norm about 1."""
    return torch.randn(3, 1000, generator=torch.Generator().manual_seed(0)) / 1000**0.5


def gram_of(v: Tensor) -> Tensor:
    return v.double() @ v.double().T


def message(v: Tensor, base_norm: float) -> str:
    with pytest.raises(UserError) as caught:
        refuse_suspicious(gram_of(v), base_norm, NAMES)
    assert "--allow_suspicious" in str(caught.value)
    return str(caught.value)


def test_experts_as_they_should_be() -> None:
    refuse_suspicious(gram_of(vectors()), 50.0, NAMES)


def test_one_expert_has_no_duplicate() -> None:
    refuse_suspicious(gram_of(vectors()[:1]), 50.0, ["qa"])


def test_an_expert_that_equals_the_base() -> None:
    v = vectors()
    v[1] = 0
    assert "expert 'sts' equals the base: its task vector has norm 0" in message(v, 50.0)


def test_an_expert_that_hardly_moved_is_one() -> None:
    v = vectors()
    v[1] *= 1e-6
    refuse_suspicious(gram_of(v), 50.0, NAMES)


def test_experts_that_all_hardly_moved_are_not_the_same() -> None:
    refuse_suspicious(gram_of(vectors() * 1e-6), 50.0, NAMES)


def test_an_expert_of_another_base() -> None:
    v = vectors()
    v[2] *= 70 / v[2].norm()
    assert "expert 'code' does not come from this base: its task vector has norm 70, the base 50" in message(v, 50.0)


@pytest.mark.parametrize(("norm", "refused"), [(24.9, False), (25.1, True)])
def test_half_the_length_of_the_base_is_too_far(norm: float, refused: bool) -> None:
    v = vectors()
    v[0] *= norm / v[0].norm()
    if refused:
        assert "expert 'qa' does not come from this base" in message(v, 50.0)
    else:
        refuse_suspicious(gram_of(v), 50.0, NAMES)


def test_two_models_with_nothing_in_common_are_refused() -> None:
    base, other = torch.randn(2, 1000, generator=torch.Generator().manual_seed(1)).double()
    with pytest.raises(UserError, match="does not come from this base"):
        refuse_suspicious(gram_of((other - base)[None]), float(base.norm()), ["qa"])


def test_duplicates() -> None:
    v = vectors()
    v[2] = v[0]
    text = message(v, 50.0)
    assert f"experts 'qa' and 'code' are the same: their task vectors of norm {float(v[0].norm()):.4g}" in text


def test_duplicates_up_to_rounding() -> None:
    v = vectors()
    v[1] = v[0] * (1 + 1e-7)
    assert "experts 'qa' and 'sts' are the same" in message(v, 50.0)


@pytest.mark.parametrize("scale", [1.01, 0.5, -1.0])
def test_parallel_experts_are_not_the_same(scale: float) -> None:
    v = vectors()
    v[1] = scale * v[0]
    refuse_suspicious(gram_of(v), 50.0, NAMES)


def test_experts_a_thousandth_apart_are_not_the_same() -> None:
    v = vectors()
    v[1] = v[0] + 1e-3 * v[2]
    refuse_suspicious(gram_of(v), 50.0, NAMES)


def test_duplicates_are_found_at_any_length() -> None:
    for length in (1e-6, 1e-2, 10.0):
        v = vectors() * length
        v[1] = v[0]
        assert "are the same" in message(v, 50.0)


BASE, OTHER = "a" * 64, "b" * 64


@pytest.mark.parametrize("known", [[BASE], [OTHER, BASE], [BASE, OTHER]])
def test_an_expert_that_records_this_base(known: list[str]) -> None:
    refuse_other_ancestors(BASE, {"qa": known})


def test_an_expert_that_records_nothing_is_believed() -> None:
    refuse_other_ancestors(BASE, {"qa": None, "sts": [BASE]})


def test_an_expert_that_records_another_base() -> None:
    with pytest.raises(UserError) as caught:
        refuse_other_ancestors(BASE, {"qa": [BASE], "sts": None, "code": [OTHER, "c" * 64]})
    text = str(caught.value)
    assert "expert 'code' was trained from another base: it records bbbbbbbbbbbb, cccccccccccc, " in text
    assert "this base is aaaaaaaaaaaa (sha256)" in text
    assert "--allow_suspicious" in text


def test_the_gram_matrix_of_float32_vectors_tells_rounding_from_a_difference() -> None:
    # what float32 leaves of two equal experts that were subtracted from the base on different machines
    generator = np.random.default_rng(0)
    base = generator.normal(size=5000).astype(np.float32)
    expert = base + np.float32(0.03) * generator.normal(size=5000).astype(np.float32)
    v = torch.tensor(np.stack([expert - base, np.nextafter(expert, np.float32(9)) - base]))
    with pytest.raises(UserError, match="are the same"):
        refuse_suspicious(gram_of(v), float(np.linalg.norm(base)), ["qa", "sts"])
