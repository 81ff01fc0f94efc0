import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from fastmim_jax import create_model
from fastmim_jax.export.formats.names import to_ours
from fastmim_jax.models.cmt import CMT, CMTStage, LightweightAttention
from helpers import initial, published, small

CASES, NUMBERS = published.load("fastmim_cmt")
TINY = dict(stem_width=4, widths=(4, 8, 8, 16), depths=(1, 1, 1, 1), heads=(1, 2, 2, 4), mlp_ratio=2.0)


def published_number(name):
    return NUMBERS[f"hog_norm1/{name}"]


@pytest.fixture(scope="module")
def training():
    """The published forward pass in training mode: variables, first grid, features, new statistics."""
    model = small.published_method("cmt", CASES["hog_norm1"]).encoder
    ours = to_ours(published.weights(CASES, "hog_norm1"), "fastmim_cmt")
    variables = {name: tree["encoder"] for name, tree in ours.items()}
    hidden = published_number("noise").argsort(1).argsort(1) >= 1
    mask = hidden.reshape(4, 2, 2).repeat(32, 1).repeat(32, 2)[..., None]
    token = published.weight(0, "mask_token", (1, 3, 1, 1), "table").reshape(-1)
    images = np.where(mask, token, published.images(0, 4, 64, 64))

    @jax.jit
    def outputs(variables, images):
        changing = dict(mutable=["batch_stats"])
        cells, _ = model.apply(variables, images, method="embed", **changing)
        return cells, *model.apply(variables, images, method="features", **changing)

    return variables, *outputs(variables, images)


@pytest.mark.slow
def test_every_stage_equals_published(training):
    _, cells, features, _ = training
    names = ("patch_embed_a", "blocks_a.0", "blocks_b.0", "blocks_c.1", "norm")
    for name, ours in zip(names, (cells, *features), strict=True):
        theirs = published_number(f"act.encoder.{name}")
        # 1e-4 as for predictions; observed 3e-5 at values up to 11.
        np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=1e-4, err_msg=name)


def test_running_statistics_after_one_pass_equal_published(training):
    found = flatten_dict(training[3]["batch_stats"], sep="/")
    prefix = "hog_norm1/after."
    after = {name.removeprefix(prefix): x for name, x in NUMBERS.items() if name.startswith(prefix)}
    expected = flatten_dict(to_ours(after, "fastmim_cmt")["batch_stats"]["encoder"], sep="/")
    assert set(found) == set(expected)
    for name, x in expected.items():  # a mean may be near zero, hence the 1e-6
        np.testing.assert_allclose(found[name], x, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_without_changing_statistics_images_do_not_touch_each_other(training):
    variables, *_ = training
    model = small.published_method("cmt", CASES["hog_norm1"]).encoder
    images = jnp.asarray(published.images(1, 2, 64, 64))

    apply = jax.jit(lambda images: model.apply(variables, images).tokens)
    before, after = apply(images), apply(images.at[1].multiply(2))
    np.testing.assert_array_equal(before[0], after[0])
    assert np.abs(before[1] - after[1]).max() > 0.1


@pytest.mark.slow
def test_attention_is_its_definition_on_a_wide_grid():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 8))
    bias = jax.random.normal(jax.random.key(1), (1, 2, 24, 6))
    module = LightweightAttention(heads=2, reduction=2)

    @jax.jit
    def found_and_expected():
        variables = initial.variables(module, jax.random.key(2), x, bias)
        params = variables["params"]
        dimensions = ("NHWC", "HWIO", "NHWC")
        kernel, steps = params["reduce"]["kernel"], (2, 2)
        coarse = jax.lax.conv_general_dilated(
            x, kernel, steps, "VALID", dimension_numbers=dimensions, feature_group_count=8
        )
        coarse = coarse / jnp.sqrt(1 + 1e-5)  # the batch norm of a running mean of 0, variance of 1
        query, key, value = (
            (cells @ params[name]["kernel"]).reshape(2, -1, 2, 4)
            for name, cells in (("q", x), ("k", coarse), ("v", coarse))
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / 2 + bias
        out = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value).reshape(x.shape)
        return module.apply(variables, x, bias), out @ params["proj"]["kernel"]

    np.testing.assert_allclose(*found_and_expected(), atol=1e-5)


@pytest.fixture(scope="module")
def stage():
    """A stage's options, input on a wide grid, and variables."""
    block = dict(heads=2, reduction=2, mlp_ratio=2.0)
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 8))
    return block, x, jax.jit(CMTStage(2, block).init)(jax.random.key(1), x)


@pytest.mark.slow
def test_rows_and_columns_are_treated_alike(stage):
    block, x, variables = stage

    def turn(path, x):
        if path[-1].key == "relative_position":
            return x.transpose(0, 2, 1, 4, 3)
        return x.swapaxes(0, 1) if x.ndim == 4 else x

    turned = jax.tree_util.tree_map_with_path(turn, variables)
    apply = jax.jit(CMTStage(2, block).apply)
    high = apply(turned, x.swapaxes(1, 2))
    np.testing.assert_allclose(apply(variables, x), high.swapaxes(1, 2), atol=1e-5)


@pytest.fixture(scope="module")
def outcome(stage):
    """A function from options of a stage to its loss, new statistics and gradients."""
    block, x, variables = stage

    def compute(**options):
        def loss(params):
            both = {**variables, "params": params}
            out, after = CMTStage(2, block, **options).apply(both, x, mutable=["batch_stats"])
            return jnp.square(out).sum(), after

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    return compute, compute()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [dict(layers="scanned"), pytest.param(dict(remat="full"), marks=pytest.mark.exhaustive)]
)
def test_scan_and_remat_change_neither_results_nor_statistics(outcome, options):
    compute, expected = outcome
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), compute(**options), expected
    )


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["unrolled", "scanned"])
def test_computes_in_bfloat16_with_float32_variables_on_wide_images(layers):
    model = CMT(**TINY, dtype=jnp.bfloat16, remat="full", layers=layers)
    images = jax.ShapeDtypeStruct((2, 64, 96, 1), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    apply = lambda *inputs: model.apply(*inputs, mutable=["batch_stats"])  # noqa: E731
    encoded, after = jax.eval_shape(apply, variables, images)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, after))} == {jnp.dtype("float32")}
    assert encoded.tokens.dtype == jnp.bfloat16 and encoded.tokens.shape == (2, 2, 3, 16)


def test_depth_groups_are_the_published_ones():
    model = create_model("cmt_s", depths=(2, 3, 4, 2))
    groups = {
        "stem/conv1/kernel": 0,
        "stem/norm3/bias": 0,
        "stem/halving/patch/kernel": 1,
        "stem/halving/norm/scale": 1,
        "stages_0/relative_position": 1,
        "stages_0/blocks/0/mlp/fc1/kernel": 1,
        "stages_0/blocks/1/local/kernel": 2,
        "downsamples_0/patch/bias": 3,
        "stages_1/relative_position": 3,
        "stages_1/blocks/0/norm1/scale": 3,
        "stages_1/blocks/2/attn/q/kernel": 5,
        "downsamples_1/norm/scale": 6,
        "stages_2/relative_position": 6,
        "stages_2/blocks/3/attn/reduce/kernel": 9,
        "downsamples_2/patch/kernel": 10,
        "stages_3/blocks/1/mlp/norm3/bias": 11,
        "norm/scale": 12,
    }
    assert {path: model.layer_group(path) for path in groups} == groups
