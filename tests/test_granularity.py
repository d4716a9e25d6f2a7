"""Which tensors share one set of coefficients."""

import pytest

from modules.errors import UserError
from modules.merging.granularity import depths_of, groups_of
from tests.tiny_encoder import tiny_encoder


def bert(layers: int = 4) -> list[str]:
    inner = ["attention.self.query.weight", "attention.output.LayerNorm.bias", "output.dense.weight"]
    return [
        "embeddings.word_embeddings.weight",
        "embeddings.LayerNorm.weight",
        *(f"encoder.layer.{i}.{name}" for i in range(layers) for name in inner),
        "pooler.dense.weight",
    ]


def llama(layers: int = 4) -> list[str]:
    inner = ["self_attn.q_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight"]
    return [
        "model.embed_tokens.weight",
        *(f"model.layers.{i}.{name}" for i in range(layers) for name in inner),
        "model.norm.weight",
        "lm_head.weight",
    ]


def gpt2(layers: int = 4) -> list[str]:
    inner = ["attn.c_attn.weight", "ln_1.bias", "mlp.c_fc.weight"]
    return ["wte.weight", "wpe.weight", *(f"h.{i}.{name}" for i in range(layers) for name in inner), "ln_f.weight"]


STYLES = {"bert": bert, "llama": llama, "gpt2": gpt2}


@pytest.mark.parametrize("style", STYLES)
def test_the_whole_model_is_one_group(style: str) -> None:
    names = STYLES[style]()
    assert groups_of(names, "model") == dict.fromkeys(names, "model")


@pytest.mark.parametrize("style", STYLES)
def test_every_tensor_is_a_group(style: str) -> None:
    names = STYLES[style]()
    assert groups_of(names, "tensor") == {name: name for name in names}


@pytest.mark.parametrize("style", STYLES)
def test_depth_rises_from_the_embeddings_to_the_last_layer(style: str) -> None:
    depths = depths_of(STYLES[style](3))
    assert list(depths.values()) == sorted(depths.values())  # the names are in the order of the layers
    assert set(depths.values()) == {0.0, 0.5, 1.0}
    assert set(depths_of(STYLES[style](1)).values()) == {0.0, 1.0}


def test_the_layers_of_bert() -> None:
    groups = groups_of(bert(2), "layer")
    assert groups == {
        "embeddings.word_embeddings.weight": "embeddings",
        "embeddings.LayerNorm.weight": "embeddings",
        "encoder.layer.0.attention.self.query.weight": "layer 0",
        "encoder.layer.0.attention.output.LayerNorm.bias": "layer 0",
        "encoder.layer.0.output.dense.weight": "layer 0",
        "encoder.layer.1.attention.self.query.weight": "layer 1",
        "encoder.layer.1.attention.output.LayerNorm.bias": "layer 1",
        "encoder.layer.1.output.dense.weight": "layer 1",
        "pooler.dense.weight": "final",
    }


@pytest.mark.parametrize("style", STYLES)
def test_layers_and_what_is_outside_them(style: str) -> None:
    groups = groups_of(STYLES[style](12), "layer")
    assert list(dict.fromkeys(groups.values())) == ["embeddings", *(f"layer {i}" for i in range(12)), "final"]
    for name, group in groups.items():
        if group.startswith("layer "):
            assert f".{group.removeprefix('layer ')}." in name


@pytest.mark.parametrize("style", STYLES)
def test_groups_are_of_consecutive_layers(style: str) -> None:
    groups = groups_of(STYLES[style](4), 2)
    assert list(dict.fromkeys(groups.values())) == ["group 0", "group 1"]
    for name, group in groups.items():
        first = any(part in name for part in ("embed", "wte", "wpe", ".0.", "h.0", ".1.", "h.1"))
        assert group == ("group 0" if first else "group 1"), name


def test_groups_that_do_not_divide_the_layers() -> None:
    groups = groups_of(gpt2(5), 3)
    assert [groups[f"h.{i}.ln_1.bias"] for i in range(5)] == ["group 0", "group 0", "group 1", "group 1", "group 2"]
    assert groups["wte.weight"] == "group 0"
    assert groups["ln_f.weight"] == "group 2"


@pytest.mark.parametrize("asked", range(1, 8))
def test_every_group_has_a_layer(asked: int) -> None:
    groups = groups_of(bert(7), asked)
    with_layers = {group for name, group in groups.items() if ".layer." in name}
    assert with_layers == {f"group {i}" for i in range(asked)}


def test_a_prefix_makes_no_difference() -> None:
    plain = groups_of(bert(), "layer")
    assert groups_of([f"0.auto_model.{name}" for name in bert()], "layer") == {
        f"0.auto_model.{name}": group for name, group in plain.items()
    }


def test_the_first_number_is_the_layer_where_modules_are_nested() -> None:
    names = ["encoder.block.3.layer.1.DenseReluDense.wo.weight", "model.layers.2.mlp.experts.5.up_proj.weight"]
    assert list(groups_of(names, "layer").values()) == ["layer 3", "layer 2"]


def test_a_real_model() -> None:
    names = [name for name, _ in tiny_encoder().backbone.named_parameters()]
    assert set(groups_of(names, "layer").values()) == {"embeddings", "layer 0", "layer 1"}


@pytest.mark.parametrize("granularity", ["layers", "2", 0, -1])
def test_no_such_granularity(granularity: str | int) -> None:
    with pytest.raises(UserError, match="use model, layer, tensor or a number of groups"):
        groups_of(bert(), granularity)


def test_more_groups_than_layers() -> None:
    with pytest.raises(UserError, match="asks for 5 groups of layers; the model has 4 layers"):
        groups_of(bert(4), 5)
    with pytest.raises(UserError, match="the model has 0 layers"):
        groups_of(["a.weight", "b.weight"], 1)
