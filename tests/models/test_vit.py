import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax import create_model
from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.names import to_ours
from fastmim_jax.models.attention import RelativePositionBias
from fastmim_jax.models.base import EncoderOutput
from fastmim_jax.models.vit import ViT
from helpers import initial, published
from helpers.sweeps import sweep


def test_every_activation_equals_published():
    cases, numbers = published.load("fastmim_vit")
    params = to_ours(published.weights(cases, "hog_norm1"), "fastmim_vit")["params"]["encoder"]
    model = ViT(patch_size=16, width=48, depth=2, heads=3, mlp_ratio=2.0)
    images = published.images(0, 4, 64, 64)
    hidden = numbers["hog_norm1/noise"].argsort(1).argsort(1) >= 4
    mask = hidden.reshape(4, 4, 4).repeat(16, 1).repeat(16, 2)[..., None]
    token = published.weight(0, "mask_token", (1, 3, 1, 1), "table").reshape(-1)
    seen = np.where(mask, token, images)

    def all_outputs(images):
        tokens = model.apply({"params": params}, images, method="embed")
        return tokens, model.apply({"params": params}, images)

    tokens, encoded = jax.jit(all_outputs)(seen)
    # 1e-4 as for predictions; observed 3e-6 at values up to 12.
    expected = numbers["hog_norm1/act.patch_embed"].reshape(tokens.shape)
    np.testing.assert_allclose(tokens, expected, atol=1e-4)
    norm = numbers["hog_norm1/act.norm"]
    np.testing.assert_allclose(encoded.prefix, norm[:, :1], atol=1e-4)
    np.testing.assert_allclose(encoded.tokens.reshape(4, 16, -1), norm[:, 1:], atol=1e-4)


@pytest.mark.slow
def test_encode_of_embed_is_the_call_and_features_end_with_it():
    model = create_model("vit_ti8", width=16, depth=5, heads=2)
    images = jax.random.normal(jax.random.key(0), (2, 16, 40, 2))
    variables = initial.variables(model, jax.random.key(1), images)

    @jax.jit
    def outcomes(variables):
        called = model.apply(variables, images)
        tokens = model.apply(variables, images, method="embed")
        encoded = model.apply(variables, tokens, method="encode")
        return called, encoded, model.apply(variables, images, method="features")

    called, encoded, features = outcomes(variables)
    assert isinstance(called, EncoderOutput) and called.tokens.shape == (2, 2, 5, 16)
    assert [x.shape for x in features] == [(2, 2, 5, 16)] * 4
    np.testing.assert_array_equal(called.tokens, encoded.tokens)
    np.testing.assert_allclose(features[-1], called.tokens, atol=1e-6)


@pytest.mark.parametrize("patch", sweep([4, 8, 14, 16], [14], pytest.mark.slow))
def test_patch_sizes(patch):
    model = create_model(f"vit_ti{patch}", depth=1)
    images = jax.ShapeDtypeStruct((1, 2 * patch, 3 * patch, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jax.eval_shape(model.apply, variables, images).tokens.shape == (1, 2, 3, 192)
    assert model.stride == patch


def test_computes_in_bfloat16_with_float32_parameters():
    model = create_model("vit_ti8", depth=1, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert jax.eval_shape(model.apply, variables, images).tokens.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("name", "overrides", "suggestion"),
    [("vit_b61", {}, "vit_b16"), ("vit_b16", {"deph": 3}, "depth")],
)
def test_unknown_names_suggest_known_ones(name, overrides, suggestion):
    with pytest.raises(UserError, match=suggestion):
        create_model(name, **overrides)


@pytest.mark.slow
def test_relative_positions_are_their_definition():
    random = np.random.default_rng(0)
    table, of_cls = (random.normal(size=s).astype(np.float32) for s in ((3, 5, 2), (3, 2)))
    params = {"relative_position_bias_table": table, "cls_relative_position_bias": of_cls}
    (bias,) = RelativePositionBias(heads=2).apply({"params": params}, jnp.zeros((2, 3)), 4)
    cells = [(row, column) for row in range(2) for column in range(3)]
    for i, (row, column) in enumerate(cells):
        for j, (other_row, other_column) in enumerate(cells):
            expected = table[row - other_row + 1, column - other_column + 2]
            np.testing.assert_array_equal(bias[:, 1 + i, 1 + j], expected)
    for place, expected in zip((bias[:, 0, 1:], bias[:, 1:, 0], bias[:, :1, 0]), of_cls, strict=True):
        np.testing.assert_array_equal(place, np.broadcast_to(expected[:, None], place.shape))


@pytest.mark.exhaustive
@pytest.mark.slow
def test_own_tables_that_are_equal_are_a_shared_one():
    options = dict(width=16, depth=2, heads=2, positions="learned", layer_scale=0.5)
    shared = create_model("vit_ti8", **options, relative_positions="shared")
    own = shared.clone(relative_positions="own")
    images = jax.random.normal(jax.random.key(0), (2, 16, 40, 2))
    params = initial.variables(shared, jax.random.key(1), images)["params"]
    assert params["position"]["pos_embed_cls"].shape == (1, 16)
    params = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params)
    blocks = {
        index: {**block, "attn": {**block["attn"], "relative_position": params["relative_position"]}}
        for index, block in params["blocks"].items()
    }
    spread = {key: x for key, x in params.items() if key != "relative_position"} | {"blocks": blocks}
    plain = shared.clone(relative_positions="none")
    all_of_them = jnp.arange(10)[None].repeat(2, 0)

    @jax.jit
    def outcomes(params, spread):
        whole = plain.apply({"params": params}, images)
        some = plain.apply({"params": params}, images, all_of_them, method="encode_visible")
        models = (shared, params), (own, spread)
        models += tuple((model.clone(layers="scanned", remat="full"), given) for model, given in models)
        return whole, some, [model.apply({"params": given}, images) for model, given in models]

    whole, some, (first, *others) = outcomes(params, spread)
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), first, other)
    assert np.abs(first.tokens - whole.tokens).max() > 1e-3
    np.testing.assert_allclose(some.tokens.reshape(whole.tokens.shape), whole.tokens, atol=1e-5)
    np.testing.assert_allclose(some.prefix, whole.prefix, atol=1e-5)
    assert (
        plain.supports_token_dropping
        and not shared.supports_token_dropping
        and not own.supports_token_dropping
    )


def test_depth_groups_are_the_published_ones():
    model = create_model("vit_b16", positions="learned", relative_positions="shared")
    groups = {
        "cls_token": 0,
        "position/pos_embed": 0,
        "patch_embed/kernel": 0,
        "blocks/0/norm1/scale": 1,
        "blocks/11/scale2/gamma": 12,
        "relative_position/relative_position_bias_table": 13,
        "norm/scale": 13,
    }
    assert {path: model.layer_group(path) for path in groups} == groups


def test_relative_positions_need_the_plain_kernel():
    model = create_model("vit_ti8", kernel="cudnn", relative_positions="own")
    with pytest.raises(ValueError, match="cannot learn relative positions, expected 'xla'"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


@pytest.mark.slow
def test_positions_begin_where_the_published_loader_puts_them_at_another_size():
    """Pre-trained on 4 x 4 cells, fine-tuned on 7 x 7."""
    after = published.load("load")[1]["vit/after/pos_embed"]
    model = create_model("vit_ti16", width=48, depth=1, positions="learned", position_grid=(4, 4))
    images = jnp.zeros((1, 112, 112, 3))
    position = initial.variables(model, jax.random.key(0), images)["params"]["position"]
    # 1e-6: PyTorch computes the weights in float32.
    np.testing.assert_allclose(position["pos_embed"].reshape(49, -1), after[0, 1:], atol=1e-6)
    np.testing.assert_array_equal(position["pos_embed_cls"], after[0, :1])


@pytest.mark.slow
def test_outputs_are_those_of_every_block():
    model = create_model("vit_ti8", width=16, depth=5, heads=2)
    images = jax.random.normal(jax.random.key(0), (2, 16, 40, 2))
    shallow = model.clone(depth=2)

    @jax.jit
    def outcomes(images):
        variables = initial.variables(model, jax.random.key(1), images)
        tokens = shallow.apply(variables, images, method="embed")
        second = shallow.apply(variables, tokens, method="transform")
        methods = "__call__", "outputs", "features"
        return second, *[model.apply(variables, images, method=name) for name in methods]

    second, called, outputs, features = outcomes(images)
    assert len(outputs) == model.num_blocks == 5
    for found, expected in ((outputs[-1], called), (outputs[1], second)):
        assert isinstance(found, EncoderOutput)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    for grid, after in zip(features, (2, 3, 4, 5), strict=True):  # quarters of 5, rounded up
        np.testing.assert_array_equal(grid, outputs[after - 1].tokens)


@pytest.mark.slow
def test_several_cls_tokens_have_positions_of_their_own():
    """Pixio's: the mean of the tokens is pooled; all patches visible are the whole image."""
    model = ViT(patch_size=8, width=8, depth=1, heads=2, positions="learned", class_tokens=3)
    images = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
    variables = initial.variables(model, jax.random.key(1), images)
    params = variables["params"]
    assert params["cls_token"].shape == (1, 3, 8) and params["position"]["pos_embed_cls"].shape == (3, 8)
    whole = model.apply(variables, images)
    assert whole.prefix.shape == (2, 3, 8) and whole.tokens.shape == (2, 2, 3, 8)
    order = jnp.broadcast_to(jnp.arange(6)[::-1], (2, 6))
    visible = model.apply(variables, images, order, method="encode_visible")
    np.testing.assert_allclose(visible.tokens[:, ::-1].reshape(2, 2, 3, 8), whole.tokens, atol=1e-5)
    np.testing.assert_allclose(visible.prefix, whole.prefix, atol=1e-5)
    np.testing.assert_allclose(whole.cls, whole.prefix.mean(1), atol=1e-6)
    moved = {**params, "position": {**params["position"], "pos_embed_cls": jnp.ones((3, 8))}}
    assert (model.apply({"params": moved}, images).prefix != whole.prefix).any()
