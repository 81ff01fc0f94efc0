import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen.initializers import zeros
from flax.traverse_util import flatten_dict

from fastmim_jax import create_model
from fastmim_jax.export.formats.names import to_ours, to_theirs
from fastmim_jax.models.convnext import ConvNeXt, ConvNeXtBlock, ConvNeXtStage, conv_init
from fastmim_jax.models.layers import PatchEmbedNorm
from helpers import initial

TINY = dict(widths=(4, 6, 8, 12), depths=(1, 1, 2, 1))


def random_variables(model, images):
    """Normal numbers everywhere, so that nothing is near zero, gamma least of all."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.3 * random.normal(size=leaf.shape).astype(np.float32), shapes)


def convolution(x, params, stride=1, pad=0, groups=1):
    dimensions = ("NHWC", "HWIO", "NHWC")
    steps, pads = (stride, stride), [(pad, pad)] * 2
    out = jax.lax.conv_general_dilated(
        x, params["kernel"], steps, pads, dimension_numbers=dimensions, feature_group_count=groups
    )
    return out + params["bias"]


def norm(x, params):
    centred = x - x.mean(-1, keepdims=True)
    std = jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return centred / std * params["scale"] + params["bias"]


def defined(params, x):
    """ConvNeXt from its paper, in convolutions and matrix products."""
    x = norm(convolution(x, params["stem"]["patch"], 4), params["stem"]["norm"])
    for stage, depth in enumerate(TINY["depths"]):
        if stage:
            halving = params[f"downsamples_{stage - 1}"]
            x = convolution(norm(x, halving["norm"]), halving["patch"], 2)
        for index in range(depth):
            block = params[f"stages_{stage}"]["blocks"][str(index)]
            first, second = block["mlp"]["fc1"], block["mlp"]["fc2"]
            y = norm(convolution(x, block["conv"], 1, 3, x.shape[-1]), block["norm"])
            y = y @ first["kernel"] + first["bias"]
            y = y * (1 + jax.lax.erf(y / np.sqrt(2))) / 2
            x = x + block["gamma"] * (y @ second["kernel"] + second["bias"])
    return norm(x, params["norm"])


@pytest.mark.slow
def test_equals_its_definition():
    model = ConvNeXt(**TINY)
    images = jax.random.normal(jax.random.key(0), (2, 64, 96, 5))
    variables = random_variables(model, images)

    @jax.jit
    def found_and_expected(variables):
        return model.apply(variables, images).tokens, defined(variables["params"], images)

    found, expected = found_and_expected(variables)
    assert found.shape == (2, 2, 3, 12)
    np.testing.assert_allclose(found, expected, atol=1e-5)  # observed 1e-6


def test_published_names_and_back():
    model = ConvNeXt(**TINY)
    encoder = random_variables(model, jnp.zeros((1, 32, 32, 3)))["params"]
    theirs = to_theirs({"params": {"encoder": encoder}}, "fastmim_convnext")
    shapes = {
        "stem.0.weight": (4, 3, 4, 4),
        "stem.1.weight": (4,),
        "stages.0.blocks.0.conv_dw.weight": (4, 1, 7, 7),
        "stages.1.downsample.0.bias": (4,),
        "stages.3.downsample.1.weight": (12, 8, 2, 2),
        "stages.2.blocks.1.gamma": (8,),
        "stages.2.blocks.1.norm.weight": (8,),
        "stages.2.blocks.1.mlp.fc1.weight": (32, 8),
        "stages.2.blocks.1.mlp.fc2.bias": (8,),
        "head.norm.weight": (12,),
    }
    assert {name: theirs[f"encoder.{name}"].shape for name in shapes} == shapes
    back = to_ours(theirs, "fastmim_convnext")["params"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, back, encoder)


@pytest.mark.slow
def test_initial_values():
    block, halving = ConvNeXtBlock(layer_scale=1e-6), PatchEmbedNorm(2, 64, conv_init, zeros)

    arguments = jax.random.key(0), jnp.zeros((1, 2, 2, 32))
    modules = {"block": block, "halving": halving}
    params = {name: initial.variables(module, *arguments)["params"] for name, module in modules.items()}
    for path, x in flatten_dict(params, sep="/").items():
        if path in ("block/conv/kernel", "halving/patch/kernel"):
            assert abs(x.std() / 0.02 - 1) < 0.1, path
        elif path.endswith("kernel"):
            assert abs(x.std() / np.sqrt(2 / sum(x.shape)) - 1) < 0.1, path
        else:
            expected = 1e-6 if path.endswith("gamma") else float(path.endswith("scale"))
            np.testing.assert_allclose(x, expected, err_msg=path)


@pytest.mark.slow
def test_scan_and_remat_change_no_results():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 8))
    plain, scanned = (ConvNeXtStage(2, {}, *options) for options in ((), ("full", "scanned")))
    variables = random_variables(plain, x)
    np.testing.assert_allclose(
        jax.jit(scanned.apply)(variables, x), jax.jit(plain.apply)(variables, x), atol=1e-5
    )


@pytest.mark.slow
def test_computes_in_bfloat16_with_float32_parameters():
    model = ConvNeXt(**TINY, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 32, 64, 1), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    features = jax.eval_shape(lambda *inputs: model.apply(*inputs, method="features"), variables, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {x.dtype for x in features} == {jnp.dtype("bfloat16")}
    assert [x.shape[1:] for x in features] == [(8, 16, 4), (4, 8, 6), (2, 4, 8), (1, 2, 12)]


def test_depth_groups():
    model = create_model("convnext_t")
    groups = {
        "stem/patch/kernel": 0,
        "stages_0/blocks/2/gamma": 3,
        "downsamples_0/norm/scale": 4,
        "stages_1/blocks/0/conv/kernel": 4,
        "downsamples_2/patch/kernel": 16,
        "stages_3/blocks/2/mlp/fc2/bias": 18,
        "norm/bias": 19,
    }
    assert {path: model.layer_group(path) for path in groups} == groups
