"""Every backbone of the zoo keeps the contract of `Backbone`."""

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from fastmim_jax import create_model
from fastmim_jax.models.base import AttentionGroups, Backbone, EncoderOutput
from fastmim_jax.models.heads import POOLINGS
from fastmim_jax.models.positions import POSITIONS
from fastmim_jax.models.resample import RULES
from fastmim_jax.models.zoo import FAMILIES, ZOO, backbone_fields
from helpers.sweeps import sweep

FIRST = {}  # the first variant of each family
for _name, (_constructor, _) in ZOO.items():
    FIRST.setdefault(_constructor.family, _name)


@pytest.mark.parametrize("name", ZOO)
def test_capabilities_are_declared(name):
    model = create_model(name)
    assert isinstance(model, Backbone)
    assert model.family in FAMILIES
    assert model.pooling in POOLINGS
    assert model.positions in POSITIONS
    assert set(model.resampling) <= set(RULES)
    for flag in ("supports_groups", "supports_token_dropping", "supports_cudnn", "has_cls_token"):
        assert isinstance(getattr(model, flag), bool), flag
    assert model.window_field is None or model.window_field in backbone_fields(name)
    assert model.stride % model.embed_stride == 0
    assert model.num_blocks >= len(model.layer_names) >= len(model.stage_widths) >= 1
    assert not model.stage_heads or len(model.stage_heads) == len(model.stage_widths)
    for width, heads in zip(model.stage_widths, model.stage_heads, strict=False):
        assert width % heads == 0


@pytest.mark.parametrize("family", FIRST)
def test_nothing_that_the_base_class_leaves_open_is_missing(family):
    constructor, _ = ZOO[FIRST[family]]
    for name in (
        *("stride", "embed_stride", "num_blocks", "layer_names", "layer_strides", "stage_widths"),
        *("embed", "transform", "encode", "outputs", "layer_group"),
    ):
        assert getattr(constructor, name) is not getattr(Backbone, name), name


def test_capabilities_are_not_fields():
    assert backbone_fields("swin_t") == {
        *(
            "drop_path",
            "dtype",
            "remat",
            "layers",
            "residual_dtype",
            "kernel",
            "width",
            "depths",
            "heads",
            "mlp_ratio",
        ),
        *("epsilon", "positions", "position_grid", "window"),
    }


@pytest.fixture(scope="module", params=sweep(FIRST, ["vit", "swin"], pytest.mark.slow))
def traced(request):
    """A small backbone, images, and the shapes of its variables."""
    name = FIRST[request.param]
    sizes = {"depth": 2} if "depth" in backbone_fields(name) else {"depths": (1, 1, 2, 1)}
    model = create_model(name, **sizes)
    images = jax.ShapeDtypeStruct((2, 2 * model.stride, 4 * model.stride, 3), jnp.float32)
    return model, images, jax.eval_shape(model.init, jax.random.key(0), images)


def shapes_of(model, variables, *inputs, method="__call__"):
    return jax.eval_shape(lambda *arrays: model.apply(*arrays, method=method), variables, *inputs)


@pytest.mark.slow
def test_tokens_have_the_declared_strides_and_widths(traced):
    model, images, variables = traced
    tokens = shapes_of(model, variables, images, method="embed")
    fine = model.stride // model.embed_stride
    assert tokens.shape == (2, 2 * fine, 4 * fine, model.stage_widths[0])
    for method in ("encode", "transform"):
        encoded = shapes_of(model, variables, tokens, method=method)
        assert isinstance(encoded, EncoderOutput)
        assert encoded.tokens.shape == (2, 2, 4, model.stage_widths[-1])
        assert encoded.prefix.shape == (2, int(model.has_cls_token), model.stage_widths[-1])
    outputs = shapes_of(model, variables, images, method="outputs")
    assert len(outputs) == len(model.layer_names)
    sides = [2 * model.stride // output.tokens.shape[1] for output in outputs]
    assert tuple(sides) == model.layer_strides
    assert outputs[-1] == shapes_of(model, variables, images)
    features = shapes_of(model, variables, images, method="features")
    assert features[-1].shape == outputs[-1].tokens.shape


@pytest.mark.slow
def test_declared_capabilities_work(traced):
    model, images, variables = traced
    if model.supports_token_dropping:
        ids_keep = jax.ShapeDtypeStruct((2, 3), jnp.int32)
        visible = shapes_of(model, variables, images, ids_keep, method="encode_visible")
        assert visible.tokens.shape == (2, 3, model.stage_widths[-1])
    else:
        with pytest.raises(NotImplementedError):
            shapes_of(model, variables, images, jnp.zeros((2, 3), int), method="encode_visible")
    if model.supports_groups:
        tokens = shapes_of(model, variables, images, method="embed")
        labels = jax.ShapeDtypeStruct((2, 2, 4), jnp.bool_)
        encoded = shapes_of(model, variables, tokens, AttentionGroups(labels), method="encode")
        assert encoded.tokens.shape == (2, 2, 4, model.stage_widths[-1])


def test_every_parameter_has_a_layer_group(traced):
    model, _, variables = traced
    groups = {path: model.layer_group(path) for path in flatten_dict(variables["params"], sep="/")}
    assert set(groups.values()) == set(range(model.num_blocks + 2))
