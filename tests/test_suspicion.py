"""The quick check of task vectors against the exact one: it clears nothing that the exact one refuses."""

import pytest
import torch
from torch import Tensor

from modules.compatibility.safety import refuse_suspicious
from modules.errors import UserError
from modules.gram import gram_of
from modules.on_disk.suspicion import Suspicion

BASE = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))


def noise(seed: int, size: float) -> Tensor:
    return size * torch.randn(BASE.shape, generator=torch.Generator().manual_seed(seed))


CASES = {
    "ordinary": ([noise(1, 0.01), noise(2, 0.02), noise(3, 0.01)], True),
    "of another base": ([noise(1, 0.01), noise(2, 0.7)], False),
    "just too long": ([noise(1, 0.01), noise(2, 0.52)], False),
    "the base": ([noise(1, 0.01), torch.zeros_like(BASE)], False),
    "the same": ([noise(1, 0.01), noise(2, 0.01), noise(1, 0.01)], False),
    "all but the same": ([noise(1, 0.01), noise(1, 0.01) + noise(2, 1e-9)], False),
    "squares below float32": ([noise(1, 1e-30), noise(2, 1e-30)], False),
    "the same at the beginning": ([noise(1, 0.01), noise(1, 0.01).index_fill(0, torch.tensor([39]), 0.0)], False),
}


@pytest.mark.parametrize("case", CASES)
def test_only_what_cannot_be_refused_is_clear(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.on_disk.suspicion.HEAD", 30)
    vectors, clear = CASES[case]
    stacked = torch.stack(vectors)
    suspicion = Suspicion(len(vectors))
    for rows in (slice(0, 24), slice(24, 25), slice(25, 40)):
        suspicion.add(BASE[rows].contiguous(), stacked[:, rows].contiguous())
    assert suspicion.is_clear() == clear
    if clear:
        refuse_suspicious(gram_of(stacked), float(BASE.norm()), [str(i) for i in range(len(vectors))])


@pytest.mark.parametrize("case", ["of another base", "just too long", "the base", "the same", "all but the same"])
def test_what_is_refused_is_refused_by_the_exact_check(case: str) -> None:
    vectors, _ = CASES[case]
    with pytest.raises(UserError):
        refuse_suspicious(gram_of(torch.stack(vectors)), float(BASE.norm()), [str(i) for i in range(len(vectors))])
