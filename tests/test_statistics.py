"""Fisher information and layer inputs against the obvious loops, and the merges made of them."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modules.checkpoints.identity import weights_identity
from modules.encoding.text_encoder import TextEncoder
from modules.errors import UserError
from modules.losses.task_batch import NO_TEXT, LossConfig, TaskBatch
from modules.merging import Fisher, MergeMethod, RegMean
from modules.merging.collect_statistics import collect_fisher, collect_input_grams, collect_statistics
from modules.merging.combine import combine
from modules.merging.merge_method import Statistics
from modules.merging.statistics import read_statistics
from tests.tiny_encoder import tiny_encoder

TEMPERATURE = 0.2

PAIRS = [
    ["the red cat", "a blue dog runs", "the red cat", "query : sky", "is the ball blue"],  # a question asked twice
    ["cat sits", "dog", "a cat is a cat runs", "cat sits", "the ball"],  # an answer to two questions
    ["sky", "a blue dog runs", "dog", "a ball is red", "cat sits"],  # a row's own anchor, others' positives
]
SCORES = [0.2, 0.9, 0.2, 0.5, 0.0]
LABELS = [0, 1, 0, 2, 0]


def rows_of(
    encoder: TextEncoder, loss: str, columns: Sequence[Sequence[str]], target: Sequence[float] | None = None
) -> TaskBatch:
    numbers = {text: i for i, text in enumerate({text: None for column in columns for text in column})}
    return TaskBatch(
        "t",
        LossConfig(loss, TEMPERATURE),
        [encoder.tokenize(column) for column in columns],
        torch.tensor([[numbers[text] for text in column] for column in columns]),
        None if target is None else torch.tensor(target),
    )


def cos(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm()) / TEMPERATURE


def obvious_info_nce(embeddings: list[Tensor], batch: TaskBatch, i: int) -> Tensor:
    anchors, *others = embeddings
    ids = batch.text_ids.tolist()
    own = cos(anchors[i], others[0][i])
    terms = [own]
    for column, texts in enumerate(others):
        for j in range(len(batch)):
            same_question = column == 0 and ids[0][j] == ids[0][i]
            if not same_question and ids[column + 1][j] not in (ids[0][i], ids[1][i]):
                terms.append(cos(anchors[i], texts[j].detach()))
    return torch.logsumexp(torch.stack(terms), 0) - own


def obvious_cosent(embeddings: list[Tensor], batch: TaskBatch, i: int) -> Tensor:
    pairs = [cos(a, b) if row == i else cos(a, b).detach() for row, (a, b) in enumerate(zip(*embeddings, strict=True))]
    total = torch.ones(())
    for j, higher in enumerate(SCORES):
        for k, lower in enumerate(SCORES):
            if higher > lower:
                total = total + (pairs[k] - pairs[j]).exp()
    return len(SCORES) * total.log()


def obvious_supcon(embeddings: list[Tensor], batch: TaskBatch, i: int) -> Tensor:
    (texts,) = embeddings
    others = {j: cos(texts[i], texts[j].detach()) for j in range(len(LABELS)) if j != i}
    right = [others[j] for j in others if LABELS[j] == LABELS[i]]
    denominator = torch.logsumexp(torch.stack(list(others.values())), 0)
    return denominator - torch.stack(right).mean() if right else 0.0 * denominator


def obvious_fisher(encoder: TextEncoder, batches: list[TaskBatch], loss: Callable[..., Tensor]) -> dict[str, Tensor]:
    """Every row from scratch: all its batch is embedded with autograd, and detached afterwards."""
    encoder.eval()
    squares = {name: torch.zeros_like(weight) for name, weight in encoder.backbone.named_parameters()}
    for batch in batches:
        for i in range(len(batch)):
            encoder.zero_grad()
            loss([encoder(features) for features in batch.features], batch, i).backward()
            for name, weight in encoder.backbone.named_parameters():
                squares[name] += 0 if weight.grad is None else weight.grad**2
    encoder.zero_grad()
    return {name: square / sum(map(len, batches)) for name, square in squares.items()}


FISHER_CASES = {
    "in-batch": ("infonce", PAIRS[:2], None, obvious_info_nce),
    "hard negatives": ("infonce", PAIRS, None, obvious_info_nce),
    "cosent": ("cosent", PAIRS[:2], SCORES, obvious_cosent),
    "supcon": ("supcon", PAIRS[2:], LABELS, obvious_supcon),
}


@pytest.mark.parametrize("case", FISHER_CASES)
def test_fisher_equals_the_loop_over_rows(case: str) -> None:
    loss, columns, target, obvious = FISHER_CASES[case]
    encoder = tiny_encoder().double()
    batches = [rows_of(encoder, loss, columns, target)]
    fisher, expected = collect_fisher(encoder, batches), obvious_fisher(encoder, batches, obvious)
    assert fisher.keys() == expected.keys()
    for name, square in expected.items():
        # No bias of a key changes an embedding: its gradient is rounding error.
        assert torch.allclose(fisher[name], square, rtol=1e-6, atol=1e-20), name
    assert fisher["embeddings.word_embeddings.weight"].max() > 0


def test_fisher_is_the_mean_over_the_rows_of_all_batches() -> None:
    encoder = tiny_encoder().double()
    first = rows_of(encoder, "infonce", PAIRS)
    second = rows_of(encoder, "infonce", [column[1:4] for column in PAIRS])
    name = "encoder.layer.0.attention.self.value.weight"
    parts = [collect_fisher(encoder, [batch])[name] for batch in (first, second)]
    assert torch.allclose(collect_fisher(encoder, iter([first, second]))[name], (5 * parts[0] + 3 * parts[1]) / 8)


@pytest.mark.parametrize("collect", [collect_fisher, collect_input_grams])
def test_collecting_leaves_the_encoder_as_it_was(collect: Callable[..., dict[str, Tensor]]) -> None:
    encoder = tiny_encoder().train()
    encoder.backbone.embeddings.requires_grad_(False)
    flags = [weight.requires_grad for weight in encoder.parameters()]
    batches = [rows_of(encoder, "infonce", PAIRS)]
    once, twice = collect(encoder, batches), collect(encoder, batches)
    assert all(torch.equal(tensor, twice[name]) for name, tensor in once.items())  # no dropout
    assert all(module.training for module in encoder.modules())
    assert [weight.requires_grad for weight in encoder.parameters()] == flags
    assert all(weight.grad is None for weight in encoder.parameters())
    with pytest.raises(UserError, match="no rows"):
        collect(encoder, [])


def inputs_of_layers(encoder: TextEncoder, text: str) -> dict[str, np.ndarray]:
    """What enters the linear layers when a text is embedded alone: ``[length, in]`` each."""
    seen: dict[str, np.ndarray] = {}

    def see(name: str) -> Callable[..., None]:
        return lambda layer, inputs, output: seen.update({f"{name}.weight": inputs[0][0].numpy()})

    layers = [(name, module) for name, module in encoder.backbone.named_modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(see(name)) for name, layer in layers]
    with torch.no_grad():
        encoder.eval()(encoder.tokenize([text]))
    for hook in hooks:
        hook.remove()
    return seen


def test_input_grams_are_the_mean_over_tokens() -> None:
    encoder = tiny_encoder()
    seen = [inputs_of_layers(encoder, text) for column in PAIRS for text in column]
    grams = collect_input_grams(encoder, [rows_of(encoder, "infonce", PAIRS)])
    assert grams.keys() == seen[0].keys()
    assert len(grams) == 12
    for name, gram in grams.items():
        tokens = np.concatenate([inputs[name] for inputs in seen]).astype(np.float64)
        assert np.allclose(gram, tokens.T @ tokens / len(tokens), rtol=1e-5, atol=1e-6), name


def test_a_negative_that_a_row_lacks_changes_nothing() -> None:
    """Whatever text stands in its place."""
    encoder = tiny_encoder().double()
    found = []
    for text in ("", "the red cat sits on a ball"):
        batch = rows_of(encoder, "infonce", [*PAIRS, ["sky", *[text] * 4]])
        batch.text_ids[3, 1:] = NO_TEXT
        found.append([collect(encoder, [batch]) for collect in (collect_input_grams, collect_fisher)])
    for first, second in zip(*found, strict=True):
        assert all(torch.allclose(tensor, second[name], rtol=1e-6, atol=1e-12) for name, tensor in first.items())


def test_padding_changes_nothing() -> None:
    encoder = tiny_encoder().double()
    batch = rows_of(encoder, "infonce", PAIRS)
    padded = rows_of(encoder, "infonce", PAIRS)
    padded.features = [{key: nn.functional.pad(value, (0, 7)) for key, value in f.items()} for f in batch.features]
    for collect in (collect_input_grams, collect_fisher):
        short, long = collect(encoder, [batch]), collect(encoder, [padded])
        assert all(torch.allclose(tensor, long[name], rtol=1e-6, atol=1e-12) for name, tensor in short.items())


def test_hooks_are_gone_after_an_error() -> None:
    encoder = tiny_encoder()

    def broken() -> Iterator[TaskBatch]:
        yield rows_of(encoder, "infonce", PAIRS)
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError):
        collect_input_grams(encoder, broken())
    assert not any(module._forward_pre_hooks for module in encoder.modules())


def never() -> list[TaskBatch]:
    raise AssertionError("nothing had to be collected")


def collected(kind: str, folder: Path, seed: int, columns: list[list[str]] = PAIRS) -> TextEncoder:
    """A tiny expert in a folder, with its statistics."""
    encoder = tiny_encoder(seed)
    encoder.save(folder)
    batch = rows_of(encoder, "infonce", columns)
    collect_statistics(kind, encoder, folder, lambda: [batch], fingerprint="data")
    return encoder


@pytest.mark.parametrize("kind", ["fisher", "input_gram"])
def test_statistics_are_collected_once(kind: str, tmp_path: Path) -> None:
    encoder = collected(kind, tmp_path, seed=1)
    path = collect_statistics(kind, encoder, tmp_path, never, fingerprint="data")
    assert path == tmp_path / "statistics" / f"{kind}.safetensors"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    TextEncoder.load(tmp_path)  # the folder is a model as before
    with pytest.raises(AssertionError):
        collect_statistics(kind, encoder, tmp_path, never, fingerprint="other data")
    tiny_encoder(2).save(tmp_path)
    with pytest.raises(AssertionError):
        collect_statistics(kind, encoder, tmp_path, never, fingerprint="data")


def test_a_broken_file_is_collected_anew(tmp_path: Path) -> None:
    collected("fisher", tmp_path, seed=1)
    path = tmp_path / "statistics" / "fisher.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="has no fisher statistics"):
        read_statistics("fisher", [str(tmp_path)])
    collected("fisher", tmp_path, seed=1)
    assert read_statistics("fisher", [str(tmp_path)])("embeddings.LayerNorm.bias") is not None


def test_statistics_are_stacked(tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in "ab"]
    parts = []
    for seed, folder in enumerate(folders):
        collected("input_gram", Path(folder), seed)
        parts.append(load_file(f"{folder}/statistics/input_gram.safetensors"))
    statistics = read_statistics("input_gram", folders)
    for name in parts[0]:
        assert torch.equal(statistics(name), torch.stack([part[name] for part in parts]))
    assert statistics("embeddings.word_embeddings.weight") is None


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    collected("input_gram", Path(a), 1)
    tiny_encoder(2).save(b)
    with pytest.raises(UserError, match=r"expert .*/b has no input_gram statistics .* baselines: \[reg_mean\]"):
        read_statistics("input_gram", [a, b])
    collected("input_gram", Path(b), 2)
    tiny_encoder(3).save(b)
    with pytest.raises(UserError, match=r"expert .*/b: .* other weights.* baselines: \[reg_mean\]"):
        read_statistics("input_gram", [a, b])
    path = Path(b) / "statistics" / "input_gram.safetensors"
    left = load_file(path)
    name = sorted(left)[0]
    left.pop(name)
    save_file(left, path, {"weights": weights_identity(b)})
    with pytest.raises(UserError, match=rf"expert .*/b: input_gram statistics lack {name}"):
        read_statistics("input_gram", [a, b])


def test_experts_without_any_gradient_merge_too(tmp_path: Path) -> None:
    for seed, labels in enumerate([[0, 1, 2], [0, 0, 1]]):  # the first teaches nothing
        encoder = tiny_encoder(seed)
        encoder.save(tmp_path / str(seed))
        batch = rows_of(encoder, "supcon", [PAIRS[2][:3]], labels)
        collect_statistics("fisher", encoder, tmp_path / str(seed), lambda batch=batch: [batch], fingerprint="")
    of = read_statistics("fisher", [str(tmp_path / "0"), str(tmp_path / "1")])
    first, second = of("encoder.layer.0.output.dense.weight")
    assert not first.any()
    assert second.any()


def merged(method: MergeMethod, base: nn.Module, experts: list[nn.Module], statistics: Statistics) -> dict[str, Tensor]:
    """The merge with equal coefficients."""
    weights = dict(base.named_parameters())
    vectors = {name: torch.stack([e.get_parameter(name) - w for e in experts]).detach() for name, w in weights.items()}
    prepare = method.preparation(lambda: iter(vectors.items()), statistics)
    c = method.coefficients(method.initial(len(experts)), torch.eye(len(experts)))
    result = {}
    for name, weight in weights.items():
        prepared = prepare(name, vectors[name])
        result[name] = combine(weight.detach(), prepared.vectors, c, prepared.importance)
    return result


def numpy_weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: weight.detach().numpy().astype(np.float64) for name, weight in model.named_parameters()}


def two_experts(kind: str, folder: Path) -> tuple[list[nn.Module], Statistics, list[dict[str, np.ndarray]]]:
    """Backbones, what is read of their statistics, and the same as arrays."""
    rows = [PAIRS, [["a red ball", "the sky"], ["is red", "blue"], ["dog", "cat"]]]
    folders = [folder / "a", folder / "b"]
    experts = [collected(kind, f, seed, r).backbone for f, seed, r in zip(folders, (1, 2), rows, strict=True)]
    files = [load_file(f / "statistics" / f"{kind}.safetensors") for f in folders]
    arrays = [{name: tensor.numpy().astype(np.float64) for name, tensor in file.items()} for file in files]
    return experts, read_statistics(kind, [str(f) for f in folders]), arrays


def close(ours: Tensor, obvious: np.ndarray) -> bool:
    return bool(np.abs(ours.numpy() - obvious).max() <= 1e-6 * max(1.0, np.abs(obvious).max()))


def test_a_fisher_merge_equals_the_formula(tmp_path: Path) -> None:
    experts, statistics, (f1, f2) = two_experts("fisher", tmp_path)
    result = merged(Fisher(), tiny_encoder(0).backbone, experts, statistics)
    w1, w2 = map(numpy_weights, experts)
    for name, ours in result.items():
        total = f1[name] + f2[name]
        weighted = (f1[name] * w1[name] + f2[name] * w2[name]) / np.where(total > 0, total, 1)
        assert close(ours, np.where(total > 0, weighted, (w1[name] + w2[name]) / 2)), name


def test_a_reg_mean_merge_equals_the_formula(tmp_path: Path) -> None:
    experts, statistics, grams = two_experts("input_gram", tmp_path)
    result = merged(RegMean(), tiny_encoder(0).backbone, experts, statistics)
    weights = [numpy_weights(expert) for expert in experts]
    for name, ours in result.items():
        expected = (weights[0][name] + weights[1][name]) / 2
        if name in grams[0]:
            scaled = [0.9 * g[name] + 0.1 * np.diag(np.diag(g[name])) for g in grams]
            right = sum(g @ w[name].T for g, w in zip(scaled, weights, strict=True))
            expected = np.linalg.solve(sum(scaled), right).T
        assert close(ours, expected), name


@pytest.mark.parametrize("method", [Fisher(), RegMean()])
def test_equal_statistics_give_the_average(method: MergeMethod) -> None:
    encoder, experts = tiny_encoder(0), [tiny_encoder(1).backbone, tiny_encoder(2).backbone]
    collect = collect_fisher if method.statistics == "fisher" else collect_input_grams
    same = collect(encoder, [rows_of(encoder, "infonce", PAIRS)])

    def statistics(name: str) -> Tensor | None:
        return torch.stack([same[name]] * 2) if name in same else None

    first, second = map(numpy_weights, experts)
    for name, ours in merged(method, encoder.backbone, experts, statistics).items():
        assert close(ours, (first[name] + second[name]) / 2), name


def test_no_fisher_information_gives_the_average() -> None:
    base, experts = tiny_encoder(0).backbone, [tiny_encoder(1).backbone, tiny_encoder(2).backbone]
    result = merged(Fisher(), base, experts, lambda name: torch.zeros(2, *base.get_parameter(name).shape))
    first, second = map(numpy_weights, experts)
    assert all(close(ours, (first[name] + second[name]) / 2) for name, ours in result.items())


@pytest.mark.parametrize("tokens", [40, 5])  # 3 * 5 tokens leave some of the 20 inputs undetermined
def test_reg_mean_minimises_the_differences_of_the_outputs(tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, tokens, 20, generator=generator, dtype=torch.float64)
    layers = torch.randn(3, 7, 20, generator=generator, dtype=torch.float64)
    grams = (inputs.transpose(1, 2) @ inputs / tokens).float()
    prepared = RegMean(off_diagonal=1.0).preparation(lambda: iter([]), lambda name: grams)("layer", layers.clone())
    best = combine(torch.zeros(7, 20, dtype=torch.float64), prepared.vectors, torch.full((3,), 1 / 3).double())

    def slope(weight: Tensor) -> Tensor:
        weight = weight.clone().requires_grad_()
        outputs = [x @ (weight - layer).T for x, layer in zip(inputs, layers, strict=True)]
        return torch.autograd.grad(sum(output.square().sum() for output in outputs), weight)[0]

    assert slope(best).norm() < 1e-4 * slope(layers.mean(0)).norm()


def test_reading_needs_no_training_libraries() -> None:
    code = (
        "import sys, modules.merging.statistics\n"
        "print({'transformers', 'lightning', 'datasets', 'mteb'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
