import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.export.formats.names import to_ours
from fastmim_jax.models.pvt_v2 import PVTv2, adaptive_pooling
from helpers import published

SMALL = dict(widths=(8, 16, 16, 16), depths=(1, 2, 1, 1), heads=(1, 2, 2, 4), mlp_ratios=(2,) * 4)


def test_every_stage_equals_published():
    cases, numbers = published.load("fastmim_pvtv2")
    params = to_ours(published.weights(cases, "hog_norm1"), "fastmim_pvtv2")["params"]["encoder"]
    sizes = dict(widths=(16, 16, 32, 32), depths=(1, 1, 2, 1), heads=(1, 2, 2, 4), mlp_ratios=(2,) * 4)
    model = PVTv2(**sizes)
    hidden = numbers["hog_norm1/noise"].argsort(1).argsort(1) >= 1
    mask = hidden.reshape(4, 2, 2).repeat(32, 1).repeat(32, 2)[..., None]
    token = published.weight(0, "mask_token", (1, 3, 1, 1), "table").reshape(-1)
    seen = np.where(mask, token, published.images(0, 4, 64, 64))

    def outputs(module, images):
        return module.embed(images), module.features(images)

    patches, grids = jax.jit(lambda x: model.apply({"params": params}, x, method=outputs))(seen)
    # 1e-4 as for predictions; observed 4e-6 at values up to 4.
    names = ["patch_embed1", "norm1", "norm2", "norm3", "norm4"]
    for name, ours in zip(names, [patches, *grids], strict=True):
        expected = numbers[f"hog_norm1/act.encoder.{name}"].reshape(ours.shape)
        np.testing.assert_allclose(ours, expected, atol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["reduced", "pooled"])
def test_wide_images_scanned_and_unrolled(attention):
    random = np.random.default_rng(0)
    images = random.normal(size=(2, 64, 96, 5)).astype(np.float32)
    model = PVTv2(**SMALL, attention=attention)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda x: random.normal(0, 0.2, x.shape).astype(np.float32), shapes)

    @jax.jit
    def outcomes(variables, images):
        modules = model, model.clone(layers="scanned", remat="full")
        return [module.apply(variables, images, method="features") for module in modules]

    plain, scanned = outcomes(variables, images)
    assert [x.shape for x in plain] == [(2, 16, 24, 8), (2, 8, 12, 16), (2, 4, 6, 16), (2, 2, 3, 16)]
    for one, two in zip(plain, scanned, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["reduced", "pooled"])
def test_computes_in_bfloat16_with_float32_parameters(attention):
    model = PVTv2(**SMALL, attention=attention, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((1, 32, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    encoded = jax.eval_shape(model.apply, variables, images)
    assert encoded.tokens.dtype == jnp.bfloat16 and encoded.tokens.shape == (1, 1, 2, 16)
    assert encoded.prefix.shape == (1, 0, 16)


@pytest.mark.parametrize("cells", [2, 7, 10, 14])
def test_pooling_averages_the_bins_of_torch(cells):
    x = np.random.default_rng(0).normal(size=(cells, 3))
    for index, row in enumerate(adaptive_pooling(cells, 7) @ x):
        first, end = int(np.floor(index * cells / 7)), int(np.ceil((index + 1) * cells / 7))
        np.testing.assert_allclose(row, x[first:end].mean(0), atol=1e-6)


def test_depth_groups_are_as_published():
    model = PVTv2(depths=(3, 4, 6, 3))
    order = [
        ("stem/patch/kernel", 0),
        ("stages_0/blocks/0/attn/q/kernel", 1),
        ("stages_0/blocks/2/mlp/fc1/bias", 3),
        ("stages_0/norm/scale", 3),
        ("downsamples_0/norm/bias", 3),
        ("stages_1/blocks/0/norm1/scale", 4),
        ("stages_1/norm/bias", 7),
        ("downsamples_1/patch/kernel", 7),
        ("stages_2/blocks/5/attn/sr/kernel", 13),
        ("stages_2/norm/scale", 13),
        ("downsamples_2/patch/bias", 13),
        ("stages_3/blocks/2/attn/kv/kernel", 16),
        ("stages_3/norm/scale", 17),
    ]
    assert [(path, model.layer_group(path)) for path, _ in order] == order


def test_unknown_attention_is_an_error():
    model, images = PVTv2(attention="linear"), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    with pytest.raises(ValueError, match="unknown attention 'linear'; choose from: reduced, pooled"):
        jax.eval_shape(model.init, jax.random.key(0), images)
