"""``merge --config mergekit.yml`` against mergekit's formulas, tensor by tensor, and ``--weights_by``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from lightning_app.__main__ import main
from lightning_app.verbs.mergekit_config import from_mergekit
from lightning_app.verbs.weights_by import parse_weights
from modules.errors import UserError
from modules.merging import MultiSlerp, TaskArithmetic
from modules.on_disk.merge_files import merge_files
from modules.on_disk.plan import Plan
from tests.tiny_checkpoints import State, read_weights, save_models, write_weights

Formula = Callable[[Tensor, list[Tensor], list[float], dict[str, float]], Tensor]
"""Base, experts, their weights and other parameters of one tensor, to the merged tensor: float64."""


def linear(base: Tensor, experts: list[Tensor], w: list[float], parameters: dict[str, float]) -> Tensor:
    return sum(x * e for x, e in zip(w, experts, strict=True)) / sum(w)


def task_arithmetic(base: Tensor, experts: list[Tensor], w: list[float], parameters: dict[str, float]) -> Tensor:
    total = sum(w) if parameters.get("normalize") else 1.0
    mixed = sum(x * (e - base) for x, e in zip(w, experts, strict=True)) / total
    return base + parameters.get("lambda", 1.0) * mixed


def multislerp(base: Tensor, experts: list[Tensor], w: list[float], parameters: dict[str, float]) -> Tensor:
    vectors = [e - base for e in experts]
    if not all(v.any() for v in vectors):
        return base  # mergekit stops here
    shares = [x / sum(w) for x in w]
    mean = sum(s * v / v.norm() for s, v in zip(shares, vectors, strict=True))
    return base + mean / mean.norm() * sum(s * v.norm() for s, v in zip(shares, vectors, strict=True))


def model_stock(base: Tensor, experts: list[Tensor], w: list[float], parameters: dict[str, float]) -> Tensor:
    u, v = (e - base for e in experts)
    cos = (u * v).sum() / (u.norm() * v.norm()).clamp(min=1e-12)
    cos = cos.clamp(min=0)  # below 0 mergekit goes to the other side of the base, ours stays there
    t = 2 * cos / (1 + cos)
    return t * (experts[0] + experts[1]) / 2 + (1 - t) * base


def sce(base: Tensor, experts: list[Tensor], w: list[float], parameters: dict[str, float]) -> Tensor:
    vectors = torch.stack([e - base for e in experts])
    variance = vectors.var(0, unbiased=False)
    k = int(parameters["select_topk"] * int(variance.count_nonzero()))
    if not k:
        return base
    chosen = torch.zeros(variance.numel(), dtype=torch.bool)
    chosen[variance.flatten().topk(k).indices] = True
    vectors = vectors * chosen.view(variance.shape)
    energy = (vectors**2).flatten(1).sum(1)
    agree = vectors.sign() == torch.where(vectors.sum(0) >= 0, 1.0, -1.0)
    weights = energy.view(-1, *[1] * base.ndim) / energy.sum() * agree
    total = weights.sum(0)
    return base + (weights * vectors).sum(0) / total.where(total > 0, 1.0)


def breadcrumbs(base: Tensor, experts: list[Tensor], w: list[float], parameters: dict[str, float]) -> Tensor:
    merged = base.clone()
    for x, expert in zip(w, experts, strict=True):
        v = expert - base
        n = v.numel()
        top = int(parameters["gamma"] * n)
        bottom = n - int(parameters["density"] * n) - top
        order = v.abs().flatten().argsort()
        kept = torch.zeros(n)
        kept[order[bottom : n - top]] = 1
        merged += x * v * kept.view(v.shape)
    return merged


BY_FILTER = [{"filter": "attention", "value": 0.25}, {"filter": "query", "value": 9.0}, {"value": 1.5}]
OTHER_FILTERS = [{"filter": "query", "value": 2.0}, {"filter": "LayerNorm", "value": -0.5}]

CASES: dict[str, tuple[Formula, dict[str, Any], list[Any], dict[str, float]]] = {
    "linear": (linear, {"weight": 0.5}, [None, 1.5], {}),
    "task_arithmetic": (task_arithmetic, {}, [0.5, -0.25], {"lambda": 0.7}),
    "task_arithmetic by filter": (task_arithmetic, {"weight": 0.75}, [BY_FILTER, OTHER_FILTERS], {}),
    "task_arithmetic normalised": (task_arithmetic, {}, [BY_FILTER, 1.0], {"normalize": True, "lambda": 0.5}),
    "multislerp": (multislerp, {}, [BY_FILTER, 0.5], {}),
    "model_stock": (model_stock, {}, [None, None], {}),
    "sce": (sce, {}, [None, None], {"select_topk": 0.3}),
    "breadcrumbs": (breadcrumbs, {"weight": 1.0}, [None, 0.5], {"density": 0.5, "gamma": 0.1}),
}


@pytest.fixture
def models(tmp_path: Path) -> dict[str, str]:
    base, experts = save_models(tmp_path)
    shared = read_weights(experts["e0"])
    start, own = read_weights(base), read_weights(experts["e1"])
    related = {key: own[key] + 0.6 * (shared[key] - start[key]) for key in own}  # an angle that Model Stock takes
    write_weights(experts["e1"], related)
    return {"base": base, **experts}


def weight_of(name: str, own: Any, general: Any) -> float:
    """As mergekit looks it up."""
    for given in (own, general):
        for row in given if isinstance(given, list) else [{"value": given}]:
            if row["value"] is not None and row.get("filter", "") in name:
                return float(row["value"])
    return 0.0


def merge_with(content: dict[str, Any], models: dict[str, str], *more: str) -> State:
    folder = Path(models["base"]).parent
    (folder / "mergekit.yml").write_text(yaml.safe_dump(content))
    assert main(["merge", "--config", str(folder / "mergekit.yml"), "--out", str(folder / "out"), *more]) == 0
    return read_weights(folder / "out")


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_of_mergekit_gives_its_formula(case: str, models: dict[str, str]) -> None:
    formula, general, own, parameters = CASES[case]
    names = ["e0", "e1"]
    listed = [
        {"model": models[name]} | ({"parameters": {"weight": weight}} if weight is not None else {})
        for name, weight in zip(names, own, strict=True)
    ]
    content = {"merge_method": case.split()[0], "models": listed, "parameters": general | parameters}
    if formula is not linear:
        content["base_model"] = models["base"]
    merged = merge_with(content, models)
    base, *experts = (read_weights(models[name]) for name in ("base", *names))
    for name, start in base.items():
        weights = [weight_of(name, weight, general.get("weight")) for weight in own]
        expected = formula(start.double(), [e[name].double() for e in experts], weights, parameters)
        expected = start.double() if all(torch.equal(e[name], start) for e in experts) else expected
        assert (merged[name].double() - expected).abs().max() < 1e-6 * start.abs().max() + 1e-7, name


def test_the_base_may_be_listed_and_dtypes_are_taken(models: dict[str, str]) -> None:
    listed = [{"model": models[name], "parameters": {"weight": 1.0}} for name in ("e0", "base", "e1")]
    content = {"merge_method": "linear", "base_model": models["base"], "models": listed, "dtype": "float32"}
    merged = merge_with(content | {"out_dtype": "bfloat16"}, models)
    for name, weight in merged.items():
        mean = sum(read_weights(models[model])[name].double() for model in models) / 3
        assert weight.dtype == torch.bfloat16
        assert torch.allclose(weight.double(), mean, rtol=8e-3, atol=1e-6)


def test_the_command_line_wins_over_mergekits_file(models: dict[str, str]) -> None:
    listed = [{"model": models[name], "parameters": {"weight": 1.0}} for name in ("e0", "e1")]
    content = {"merge_method": "task_arithmetic", "base_model": models["base"], "models": listed}
    merged = merge_with(content, models, "--scale", "0")
    assert all(torch.equal(merged[key], weight) for key, weight in read_weights(models["base"]).items())


def two(**parameters: Any) -> list[dict[str, Any]]:
    return [{"model": "a", "parameters": {"weight": 1.0} | parameters}, {"model": "b", "parameters": {"weight": 1.0}}]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "slerp": ({"merge_method": "slerp"}, "slerp of mergekit is not the same here: it turns whole weights"),
    "dare": ({"merge_method": "dare_ties"}, "dare_ties of mergekit is not the same here: its random numbers"),
    "unknown": ({"merge_method": "passthrough"}, "passthrough of mergekit is not the same here: read are linear, task"),
    "key": ({"chat_template": "auto"}, "the key chat_template of mergekit is not read; known are base_model"),
    "tokenizer": ({"tokenizer_source": "union"}, "tokenizer_source is not read: all models must share the base's"),
    "slices": ({"models": None}, "models is no list with a model each; slices and modules are not read"),
    "twice": ({"models": [*two(), {"model": "a"}]}, "a model is listed twice; give it once"),
    "base": ({"base_model": None}, "base_model is missing, which task vectors of task_arithmetic start from"),
    "alone": ({"models": [{"model": "base"}]}, "models lists none beside the base"),
    "no weight": ({"models": [{"model": "a"}]}, "a has no weight for tensors that no filter fits; add a value"),
    "gradient": ({"models": two(weight=[0, 0.5, 1])}, r"weight is \[0, 0.5, 1\]; gradients over layers are not read"),
    "text": ({"models": two(weight="much")}, "weight is 'much'; a number is read, or a list of filter and value"),
    "parameter": ({"models": two(speed=1.0)}, "the parameter speed of task_arithmetic is not read; leave it out"),
    "lambda": ({"parameters": {"lambda": [1.0, 2.0]}}, r"lambda is \[1.0, 2.0\]; one number for all tensors is read"),
    "cancelled": (
        {"parameters": {"normalize": True}, "models": two(weight=-1.0)},
        "weights add up to 0 and cannot be normalised",
    ),
    "densities": ({"merge_method": "breadcrumbs", "models": two(density=0.5)}, "density differs between models or"),
    "shrinks": (
        {"merge_method": "linear", "parameters": {"normalize": False}},
        "linear of weights that add up to 2 shrinks the base, too; normalize them",
    ),
    "filter_wise": (
        {"merge_method": "model_stock", "parameters": {"filter_wise": True}},
        "filter_wise of model_stock is not read: angles are of whole tensors",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_means_something_else_is_refused(case: str) -> None:
    changes, message = REFUSED[case]
    content = {"merge_method": "task_arithmetic", "base_model": "base", "models": two()} | changes
    with pytest.raises(UserError, match=message) as refusal:
        from_mergekit({key: value for key, value in content.items() if value is not None}, Path("mergekit.yml"))
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("mergekit.yml: ")


# --weights_by


def test_expressions_have_coefficients_of_their_own(models: dict[str, str], capsys: Any) -> None:
    folder = Path(models["base"]).parent
    given = ["merge", "--base", models["base"], "--experts", models["e0"], models["e1"], "--out", str(folder / "out")]
    by = [r"layer\.0\..*attention=1,0.5", "attention=-2,0", "nowhere=1,1"]
    arguments = [*given, "--method", "task_arithmetic", "--coefficients", "0.5", "0.25", "--weights_by", *by]
    assert main(arguments) == 0
    assert "no tensor takes its coefficients from these expressions of weights_by: nowhere" in capsys.readouterr().out
    base, *experts = (read_weights(models[name]) for name in ("base", "e0", "e1"))
    for name, merged in read_weights(folder / "out").items():
        a = (-2, 0) if "attention" in name else (0.5, 0.25)
        a = (1, 0.5) if "attention" in name and ".0." in name else a
        expected = base[name] + sum(x * (e[name] - base[name]) for x, e in zip(a, experts, strict=True))
        assert torch.allclose(merged, expected, atol=1e-6), name
    record = json.loads((folder / "out" / "merge.json").read_text())
    assert record["weights_by"] == {by[0][:-6]: [1.0, 0.5], "attention": [-2.0, 0.0], "nowhere": [1.0, 1.0]}
    assert record["coefficients"]["attention"] == {"e0": -2.0, "e1": 0.0}
    assert record["coefficients"]["model"] == {"e0": 0.5, "e1": 0.25}


def test_an_expression_is_a_group_with_its_own_angles(models: dict[str, str], tmp_path: Path) -> None:
    experts = {name: models[name] for name in ("e0", "e1")}
    plan = Plan(models["base"], experts, MultiSlerp(), weights_by={"attention": [3.0, 1.0]})
    coefficients = merge_files(plan, tmp_path / "out", lambda line: None)["coefficients"]
    base, *states = (read_weights(models[name]) for name in ("base", "e0", "e1"))
    for label, a in (("attention", [3.0, 1.0]), ("model", [1.0, 1.0])):
        names = [name for name in base if ("attention" in name) == (label == "attention")]
        flat = torch.stack([torch.cat([(s[n] - base[n]).flatten() for n in names]).double() for s in states])
        expected = MultiSlerp().coefficients(torch.tensor(a, dtype=torch.float64), flat @ flat.T)
        assert list(coefficients[label].values()) == pytest.approx(expected.tolist())


def test_mistakes_in_expressions_show_before_anything_is_read() -> None:
    for given, message in (
        ("attention", "--weights_by has 'attention'; write an expression and a number per expert: mlp=0.2,1"),
        ("mlp=1,x", "--weights_by has 'mlp=1,x'; write an expression"),
        ("=1,2", "--weights_by has '=1,2'; write an expression"),
    ):
        with pytest.raises(UserError, match=message):
            parse_weights([given])
    with pytest.raises(UserError, match="has the expression 'mlp' twice"):
        parse_weights(["mlp=1,2", "mlp=2,1"])
    for expression, row, message in (
        ("(", [1.0, 2.0], r"weights_by has '\(', which is no regular expression: missing \)"),
        ("mlp", [1.0], "weights_by 'mlp': 1 coefficients are given for 2 experts; give one each"),
        ("mlp", [1.0, float("nan")], r"the coefficients \[1.0, nan\] with scale 1.0 are not finite"),
    ):
        with pytest.raises(UserError, match=message):
            Plan("base", {"a": "x", "b": "y"}, TaskArithmetic(), weights_by={expression: row}).refuse_mistakes()
