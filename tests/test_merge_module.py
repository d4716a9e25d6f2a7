"""Self Positioning on tiny experts."""

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from datamodules import ProbeDataModule, load_tasks
from modules import (
    Adam,
    Bfgs,
    CmaEs,
    Dare,
    Della,
    Expert,
    Karcher,
    Lines,
    MergeMethod,
    MergeModule,
    ModelStock,
    MultiSlerp,
    NuSlerp,
    Sce,
    Search,
    Slerp,
    SphericalMean,
    TaskArithmetic,
    Ties,
    UserError,
)
from modules.losses.task_batch import TaskBatch
from modules.positioning import objective, relative_loss
from modules.positioning.merge_identity import merge_identity, refuse_other_merge
from modules.positioning.merged_encoder import MergedEncoder
from tests.conftest import Project, write_rows
from tests.tiny_encoder import WORDS, tiny_encoder


@pytest.fixture(scope="module")
def merges(tmp_path_factory: pytest.TempPathFactory) -> dict[int, MergeModule]:
    """A merge of the same experts by each of `METHODS`."""
    folder = tmp_path_factory.mktemp("merges")
    names = ("base", "qa", "sts")
    for seed, name in enumerate(names):
        tiny_encoder(seed=seed).save(folder / name)
    experts = {name: Expert(path=str(folder / name)) for name in names[1:]}
    return {
        number: MergeModule(str(folder / "base"), experts, method, allow_suspicious=True)
        for number, method in enumerate(METHODS)
    }


def module(project: Project, **options: Any) -> MergeModule:
    folders = {name: str(project.folder / name) for name in ("qa", "sts")}
    return MergeModule(
        str(project.base), folders, **{"search": Adam(0.05), "settled": 0.0, "allow_suspicious": True} | options
    )


def probe(project: Project, **options: Any) -> ProbeDataModule:
    sources = {"qa": str(project.folder / "qa.jsonl"), "sts": str(project.folder / "sts.jsonl")}
    tasks = load_tasks(sources, probe_size=24, validation_size=16)
    return ProbeDataModule(list(tasks.values()), **{"size": 48, "validation_size": 32, "batch_size": 8} | options)


def trainer_of(**options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    more = {"enable_model_summary": False, "num_sanity_val_steps": 0, "max_epochs": 2}
    return Trainer(accelerator="cpu", **quiet | more | options)


def fit(project: Project, merge: MergeModule, checkpoint: str | None = None, **options: Any) -> Trainer:
    trainer = trainer_of(**options)
    trainer.fit(merge, datamodule=probe(project), ckpt_path=checkpoint, weights_only=True)
    return trainer


def validate(project: Project, merge: MergeModule, inference_mode: bool = True, **options: Any) -> float:
    """The objective where a position stands."""
    data = probe(project, **options)
    return float(trainer_of(inference_mode=inference_mode).validate(merge, data, verbose=False)[0]["val/loss"])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_only_the_position_changes_and_stays_float32(experts: Project, precision: Any) -> None:
    merge = module(experts)
    frozen = {name: p.clone() for name, p in merge.named_parameters() if not p.requires_grad}
    trained = {name: p.clone() for name, p in merge.named_parameters() if p.requires_grad}
    assert set(trained) == {"encoder.position.raw_a", "encoder.position.raw_scale"}
    seen: list[dict[str, float]] = []
    merge.on_train_batch_end = lambda *_: seen.append(merge.describe_position())  # type: ignore[method-assign]
    fit(experts, merge, precision=precision)
    assert all(p.dtype == torch.float32 for p in merge.position.parameters())
    now = dict(merge.named_parameters())
    assert all(torch.equal(now[name], p.to(now[name].dtype)) for name, p in frozen.items())
    assert len({step["scale"] for step in seen}) == len(seen) == 10


def test_the_best_position_is_kept_the_start_included(experts: Project) -> None:
    ruined = module(experts, search=Adam(50.0))
    start = ruined.describe_position()
    fit(experts, ruined)
    assert ruined.describe_position() == pytest.approx(start)
    far = module(experts, mu=0.0)
    starts: list[float] = []
    far.on_train_start = lambda: starts.append(far.best.objective)  # type: ignore[method-assign]
    with torch.no_grad():
        far.position.raw_scale.fill_(3.0)
    fit(experts, far)
    assert far.best.objective < starts[0]
    assert far.describe_position()["scale"] < 3.0


def test_a_larger_mu_keeps_the_scale_smaller(experts: Project) -> None:
    def last_scale(mu: float) -> float:
        merge = module(experts, mu=mu)
        merge.on_train_end = lambda: scales.append(merge.describe_position()["scale"])  # type: ignore[method-assign]
        scales: list[float] = []
        fit(experts, merge)
        return scales[0]

    assert last_scale(1.0) < last_scale(0.0) - 0.1


def test_training_ends_when_the_coefficients_have_settled(experts: Project) -> None:
    assert fit(experts, module(experts, settled=10.0), max_epochs=9).current_epoch == 2


def test_a_checkpoint_holds_numbers_only_and_resumes(experts: Project, tmp_path: Path) -> None:
    merge = module(experts)
    trainer = fit(experts, merge)
    path = tmp_path / "merge.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    assert set(content["state_dict"]) == {"encoder.position.raw_a", "encoder.position.raw_scale"}
    assert path.stat().st_size < 20_000
    again = module(experts)
    fit(experts, again, checkpoint=str(path), max_epochs=2)
    assert again.describe_position() == pytest.approx(merge.describe_position())


def checkpoint_of(merge: MergeModule) -> dict[str, Any]:
    """What is kept of a module, as it is read again."""
    content: dict[str, Any] = {"state_dict": merge.state_dict()}
    merge.on_save_checkpoint(content)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


OTHER_MERGES: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": Ties()}, r"method is Slerp\(order=None\), here it is Ties\(density=0.2, per_tensor=False\)"),
    "argument": (
        {"method": Dare(seed=3)},
        r"here it is Dare\(method=Slerp\(order=None\), density=0.5, seed=3\)",
    ),
    "granularity": ({"granularity": "layer"}, "granularity is model, here it is layer"),
    "signed": ({"signed": True}, "signed is False, here it is True"),
    "search": ({"search": Bfgs()}, r"search is Adam\(lr=0.05\), here it is Bfgs\(first_step=0.3\)"),
    "rate": ({"search": Adam(0.1)}, r"search is Adam\(lr=0.05\), here it is Adam\(lr=0.1\)"),
    "mu": ({"mu": 0.5}, "mu is 0.02, here it is 0.5"),
    "pull": ({"pull": 0.5}, "pull is 0.0, here it is 0.5"),
}


@pytest.mark.parametrize("case", OTHER_MERGES)
def test_a_checkpoint_of_another_merge_is_refused(experts: Project, case: str) -> None:
    options, message = OTHER_MERGES[case]
    saved = checkpoint_of(module(experts))
    with pytest.raises(UserError, match=f"the checkpoint is one of another merge: its .*{message}"):
        module(experts, **options).on_load_checkpoint(saved)
    module(experts).on_load_checkpoint(saved)


def test_an_expert_may_be_called_base() -> None:
    one, other = (merge_identity("0" * 64, {"base": sha256 * 64}, Slerp(), Adam()) for sha256 in "12")
    with pytest.raises(UserError, match="its weights of 'base' is 1{12}, here it is 2{12}"):
        refuse_other_merge(one, other)


def test_a_checkpoint_of_other_experts_is_refused(experts: Project, tmp_path: Path) -> None:
    trainer = fit(experts, module(experts), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "merge.ckpt")
    turned = {name: Expert(path=str(experts.folder / name)) for name in ("sts", "qa")}
    with pytest.raises(UserError, match="experts is qa, sts, here it is sts, qa"):
        fit(experts, MergeModule(str(experts.base), turned, search=Adam(0.05)), checkpoint=str(tmp_path / "merge.ckpt"))
    tiny_encoder(seed=7).save(experts.folder / "sts")
    with pytest.raises(UserError, match="weights of 'sts' is [0-9a-f]{12}, here it is [0-9a-f]{12}; start without it"):
        fit(experts, module(experts), checkpoint=str(tmp_path / "merge.ckpt"))


def results(merge: MergeModule) -> list[Any]:
    """What a search has found, and on the way to what."""
    return [
        merge.describe_position(),
        merge.best.objective,
        merge.best.history,
        merge.passes,
        merge.objective.base_losses,
    ]


@pytest.mark.parametrize("inference_mode", [False, True])
def test_a_fit_after_a_validation_is_the_fit_alone(experts: Project, inference_mode: bool) -> None:
    alone, after = module(experts), module(experts)
    fit(experts, alone)
    validate(experts, after, inference_mode=inference_mode)
    fit(experts, after, inference_mode=inference_mode)
    assert results(after) == results(alone)


@pytest.mark.parametrize("inference_mode", [False, True])
def test_a_ruinous_search_returns_its_start_whatever_came_before(experts: Project, inference_mode: bool) -> None:
    merge = module(experts, search=Adam(50.0))
    at_start = validate(experts, merge, inference_mode=inference_mode)
    start = merge.describe_position()
    for _ in range(2):
        fit(experts, merge, inference_mode=inference_mode)
        assert merge.describe_position() == pytest.approx(start)
        assert merge.best.objective == pytest.approx(at_start, rel=1e-5) != 1.0


def test_a_second_fit_knows_nothing_of_the_first(experts: Project) -> None:
    merge, fresh = module(experts), module(experts)
    fit(experts, merge)
    for each in (merge, fresh):
        each.position.stand_at(torch.tensor([0.4, 1.6]), 2.0)
        fit(experts, each, max_epochs=1)
    assert results(merge) == results(fresh)


def test_what_was_measured_belongs_to_its_rows(experts: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another data module has other base losses; the same rows are not measured again."""
    merge, fresh = module(experts), module(experts)
    validate(experts, merge)
    measured: list[Any] = []
    real = relative_loss.validation_losses
    monkeypatch.setattr(objective, "validation_losses", lambda *given: measured.append(given) or real(*given))  # type: ignore[func-returns-value]
    validate(experts, merge)
    assert not measured
    few = {"validation_size": 12}
    there = validate(experts, merge, **few)
    assert len(measured) == 1
    assert there == validate(experts, fresh, **few)
    assert merge.objective.base_losses == fresh.objective.base_losses


def test_merged_weights_follow_the_coefficients(experts: Project) -> None:
    merge = module(experts, method=TaskArithmetic())
    encoder = merge.encoder
    assert isinstance(encoder, MergedEncoder)
    first = encoder.encode(["a red cat"])
    with torch.no_grad():
        merge.position.raw_a.copy_(torch.tensor([8.0, -40.0]))  # a = (8, 0)
    moved = encoder.encode(["a red cat"])
    assert (first - moved).abs().max() > 1e-3
    merge.save(experts.folder / "merged")
    base, expert = (tiny_encoder(seed).backbone.state_dict() for seed in (0, 1))
    from modules import TextEncoder

    saved = TextEncoder.load(experts.folder / "merged").backbone.state_dict()
    a = merge.position.a[0, 0].item()
    for name, weight in saved.items():
        assert torch.allclose(weight, base[name] + a * (expert[name] - base[name]), atol=1e-5), name


def test_the_base_has_objective_one(experts: Project) -> None:
    merge = module(experts, method=Slerp(["sts", "qa"]))
    fit(experts, merge, max_epochs=1)
    assert merge._objective_of(merge.objective.base_losses) == pytest.approx(1.0)


@pytest.mark.parametrize("sanity_steps", [0, 1])
def test_the_sanity_check_is_no_validation(experts: Project, sanity_steps: int) -> None:
    """It sees the first batches only, and what it finds there must not count as the best position."""
    merge = module(experts, settled=10.0)
    seen: list[int] = []
    keep = merge.best._keep_if_best

    def counted(objective: float) -> None:
        seen.append(merge.trainer.global_step)
        keep(objective)

    merge.best._keep_if_best = counted  # type: ignore[method-assign]
    fit(experts, merge, max_epochs=9, num_sanity_val_steps=sanity_steps)
    assert seen == [0, 5, 10]


def test_the_position_is_described_in_words_of_the_merge(experts: Project) -> None:
    merge = module(experts)
    base, *models = (torch.cat([p.flatten() for p in tiny_encoder(seed).parameters()]).double() for seed in range(3))
    u, v = (model - base for model in models)
    alpha = torch.acos(u @ v / (u.norm() * v.norm()))
    equal = float(torch.sin(alpha / 2) / torch.sin(alpha))
    expected = {"a/qa": 1.0, "a/sts": 1.0, "c/qa": equal, "c/sts": equal, "scale": 1.0}
    assert merge.describe_position() == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        merge.position.raw_a += torch.tensor([0.5, 0.0])
        merge.position.raw_scale.fill_(2.0)
    moved = merge.describe_position()
    assert moved["a/qa"] + moved["a/sts"] == pytest.approx(2.0)
    assert moved["scale"] == pytest.approx(torch.log1p(torch.tensor(2.0).exp()).item())
    s = moved["a/sts"] / (moved["a/qa"] + moved["a/sts"])
    expected_c = moved["scale"] * float(torch.sin(s * alpha) / torch.sin(alpha))
    assert moved["c/sts"] == pytest.approx(expected_c, rel=1e-5)


@pytest.mark.parametrize("search", [Bfgs(), CmaEs(population=4)])
def test_a_search_on_the_whole_probe_improves_the_position(experts: Project, search: Search) -> None:
    merge = module(experts, search=search, mu=0.0)
    with torch.no_grad():
        merge.position.raw_scale.fill_(3.0)
    starts: list[float] = []
    merge.on_train_start = lambda: starts.append(merge.best.objective)  # type: ignore[method-assign]
    trainer = fit(experts, merge, max_epochs=4)
    assert trainer.global_step == 4  # a step an epoch
    assert merge.best.objective < starts[0]
    assert merge.passes["forward"] % 5 == 0  # 43 rows in batches of 8
    assert merge.passes["backward"] == (0 if isinstance(search, CmaEs) else merge.passes["forward"])
    assert [point["forward"] for point in merge.best.history][-1] == merge.passes["forward"]


@pytest.mark.parametrize(
    ("precision", "size", "batches", "error"), [("32-true", 48, 5, 1e-4), ("bf16-mixed", 16, 2, 1e-6)]
)  # half a loss has the gradients of the whole to the last bit of bfloat16, a fifth has not
def test_the_gradient_over_the_whole_probe_is_that_of_its_batches(
    experts: Project, precision: Any, size: int, batches: int, error: float
) -> None:
    found: list[torch.Tensor] = []

    class Spy(Bfgs):
        def optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
            return SpyOptimizer(parameters, {})

    class SpyOptimizer(torch.optim.Optimizer):
        def step(self, closure: Any) -> None:  # type: ignore[override]
            value = closure()
            found.append(torch.cat([value.float()[None], *(p.grad.flatten() for p in self.param_groups[0]["params"])]))

    def fit_once(merge: MergeModule, **options: Any) -> None:
        trainer_of(max_epochs=1, precision=precision, **options).fit(merge, probe(experts, size=size))

    fit_once(module(experts, search=Spy(), mu=0.3, pull=0.1))
    slow = module(experts, search=Adam(0.0), mu=0.3, pull=0.1)
    values: list[torch.Tensor] = []
    slow.on_train_batch_end = lambda outputs, *_: values.append(outputs["loss"].float())  # type: ignore[method-assign]
    slow.on_before_optimizer_step = lambda _: values.extend(  # type: ignore[method-assign]
        p.grad.clone() for p in slow.position.parameters()
    )
    fit_once(slow, accumulate_grad_batches=batches)
    gradients = torch.cat([value.flatten() for value in values if value.ndim])
    losses = [value * batches for value in values if not value.ndim]  # Lightning divides by the batches accumulated
    assert len(losses) == batches
    expected = torch.cat([torch.stack(losses).mean()[None], gradients])
    assert torch.allclose(found[0], expected, rtol=error, atol=1e-6)


def test_a_pull_to_the_start_keeps_the_coefficients_nearer_to_it(experts: Project) -> None:
    def moved(pull: float) -> float:
        merge = module(experts, pull=pull, mu=0.0)
        start = merge.position.coefficients().detach()
        distances: list[float] = []
        merge.on_train_end = lambda: distances.append(  # type: ignore[method-assign]
            float((merge.position.coefficients().detach() - start).abs().sum())
        )
        fit(experts, merge, max_epochs=4)
        return distances[0]

    assert moved(10.0) < 0.5 * moved(0.0)


def test_tied_scales_of_layers_are_regularised_like_one(experts: Project) -> None:
    whole, layers = module(experts, mu=0.7), module(experts, mu=0.7, granularity="layer")
    assert layers.position.labels == ["embeddings", "layer 0", "layer 1"]
    for merge in (whole, layers):
        with torch.no_grad():
            merge.position.raw_scale.fill_(1.3)
    assert float(layers.objective.regulariser()) == pytest.approx(float(whole.objective.regulariser()))
    assert float(whole.objective.regulariser()) == pytest.approx(0.7 * whole.describe_position()["scale"])


def test_layers_learn_coefficients_of_their_own(experts: Project) -> None:
    merge = module(experts, granularity="layer")
    seen: list[dict[str, float]] = []
    merge.on_train_end = lambda: seen.append(merge.describe_position())  # type: ignore[method-assign]
    fit(experts, merge)
    described = seen[0]
    assert {"a/qa/layer 0", "c/sts/embeddings", "scale/layer 1"} <= set(described)
    assert len({described[f"scale/{label}"] for label in merge.position.labels}) == 3


def test_a_signed_position_can_subtract(experts: Project) -> None:
    merge = module(experts, method=TaskArithmetic(), signed=True)
    with torch.no_grad():
        merge.position.raw_a.copy_(torch.tensor([[0.5, -0.25]]))
    assert merge.describe_position()["c/sts"] == pytest.approx(-0.25)
    fit(experts, merge, max_epochs=1)


LEARNED = [Ties(), Dare(density=0.5), MultiSlerp(), SphericalMean(), Karcher(), NuSlerp(), Sce(), Della(), Lines()]


@pytest.mark.parametrize("method", LEARNED)
def test_every_method_can_be_learned(experts: Project, method: MergeMethod) -> None:
    merge = module(experts, method=method)
    start = merge.describe_position()
    seen: list[dict[str, float]] = []
    merge.on_train_end = lambda: seen.append(merge.describe_position())  # type: ignore[method-assign]
    fit(experts, merge, max_epochs=1)
    assert all(seen[0][key] != pytest.approx(start[key], abs=1e-6) for key in start)


def test_a_method_that_fixes_its_own_numbers_is_merged_and_not_learned(experts: Project) -> None:
    merge = module(experts, method=ModelStock())
    before = merge.describe_position()
    with pytest.raises(UserError, match="ModelStock fixes its own numbers"):
        fit(experts, merge, max_epochs=1)
    assert merge.describe_position() == before


@pytest.mark.parametrize("search", [Adam(0.05), Bfgs()])
def test_training_ends_at_the_first_loss_that_is_not_finite(experts: Project, search: Search) -> None:
    """It names data set and rows, and the position stands where it was best."""
    merge = module(experts, search=search)
    batch_start, ruined = merge.training_loss, []

    def training_loss(batch: TaskBatch, gather: Any) -> Any:
        if merge.best.history and not ruined:  # after the first validation, one NaN
            ruined.append(replace(batch, rows=list(range(11, 11 + len(batch)))))
            encoder = merge.encoder.forward
            merge.encoder.forward = lambda features: encoder(features).index_fill(0, torch.tensor([1, 3]), math.nan)  # type: ignore[method-assign, assignment]
            return batch_start(ruined[0], gather)
        return batch_start(batch, gather)

    merge.training_loss = training_loss  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"the loss of '(qa|sts)', rows 12, 14 is nan after \d+ steps; look at these"):
        fit(experts, merge, max_epochs=9)
    assert len(merge.best.history) == 1
    kept = merge.best.numbers
    assert all(torch.equal(kept[name], value) for name, value in merge.position.state_dict().items())


def test_training_ends_at_the_first_coefficient_that_is_not_finite(experts: Project) -> None:
    merge = module(experts, search=Adam(math.inf))
    start = merge.describe_position()
    with pytest.raises(
        UserError, match=r"the coefficients are not finite: the last batch was '(qa|sts)'.* after 1 steps"
    ):
        fit(experts, merge)
    assert merge.describe_position() == start


def test_an_undefined_relative_loss_is_refused(experts: Project) -> None:
    """All pairs of one data set are alike: its loss is 0, for the base and for any model."""
    write_rows(experts.folder / "sts.jsonl", [
        {"sentence1": f"{word} cat", "sentence2": f"{word} {other}", "score": 1.0} for word in WORDS for other in WORDS
    ])  # fmt: skip
    for run in (fit, validate):
        with pytest.raises(UserError, match="'sts': the base's loss on its validation rows is 0.0, so no loss is"):
            run(experts, module(experts))


METHODS = [Slerp(), TaskArithmetic(), SphericalMean(), MultiSlerp(), Slerp(["sts", "qa"])]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("before", METHODS)
def test_a_merge_starts_where_one_of_another_method_has_ended(
    merges: dict[int, MergeModule], before: MergeMethod, method: MergeMethod
) -> None:
    ended, started = merges[METHODS.index(before)], merges[METHODS.index(method)]
    ended.position.stand_at(torch.tensor([0.4, 1.6]), 1.3)
    expected = ended.position.coefficients().detach()
    position = ended.describe_position()
    started.position.stand_at(torch.tensor([1.0, 1.0]), 1.0)
    started.start_from(position)
    assert torch.allclose(started.position.coefficients(), expected, rtol=1e-6)


def test_a_new_expert_starts_at_the_mean_of_the_others(experts: Project) -> None:
    tiny_encoder(seed=3).save(experts.folder / "new")
    folders = {name: Expert(path=str(experts.folder / name)) for name in ("qa", "new", "sts")}
    merge = MergeModule(str(experts.base), folders, allow_suspicious=True)
    merge.start_from({"c/qa": 0.6, "c/sts": 0.2, "a/qa": 9.0, "scale": 9.0})
    assert merge.position.coefficients()[0].tolist() == pytest.approx([0.6, 0.4, 0.2], rel=1e-6)
    with pytest.raises(
        UserError, match="0.6, 0.2, -0.2 are not all above 0; a position stands there only if it is sign"
    ):
        merge.start_from({"c/qa": 0.6, "c/sts": -0.2})
    with pytest.raises(UserError, match="cannot start from a position of c/other: it has other experts, or groups"):
        merge.start_from({"c/other": 0.6})


def test_experts_of_another_base_are_refused(experts: Project) -> None:
    stranger = tiny_encoder()
    with torch.no_grad():
        for weight in stranger.parameters():
            weight.copy_(torch.randn(weight.shape))
    stranger.save(experts.folder / "qa")
    with pytest.raises(UserError, match=r"'qa' does not come from this base: its task vector has norm"):
        module(experts, allow_suspicious=False)
