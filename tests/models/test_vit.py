import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest

from fastmim_jax import create_model
from fastmim_jax.errors import UserError
from fastmim_jax.export.names import to_ours
from fastmim_jax.models.layers import Encoded
from fastmim_jax.models.vit import ViT


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


def test_encode_of_embed_is_the_call_and_features_end_with_it():
    model = create_model("vit_ti8", width=16, depth=5, heads=2)
    images = jax.random.normal(jax.random.key(0), (2, 16, 40, 2))
    variables = model.init(jax.random.key(1), images)

    @jax.jit
    def outcomes(variables):
        called = model.apply(variables, images)
        tokens = model.apply(variables, images, method="embed")
        encoded = model.apply(variables, tokens, method="encode")
        return called, encoded, model.apply(variables, images, method="features")

    called, encoded, features = outcomes(variables)
    assert isinstance(called, Encoded) and called.tokens.shape == (2, 2, 5, 16)
    assert [x.shape for x in features] == [(2, 2, 5, 16)] * 4
    np.testing.assert_array_equal(called.tokens, encoded.tokens)
    np.testing.assert_allclose(features[-1], called.tokens, atol=1e-6)


@pytest.mark.parametrize("patch", [4, 8, 14, 16])
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
    ("name", "overrides", "told"),
    [("vit_b61", {}, "vit_b16"), ("vit_b16", {"deph": 3}, "depth")],
)
def test_unknown_names_are_told_with_what_there_is(name, overrides, told):
    with pytest.raises(UserError, match=told):
        create_model(name, **overrides)
