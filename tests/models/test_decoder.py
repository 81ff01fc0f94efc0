"""The decoder: its parameters by depth, prefix tokens, heads and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.models.base import EncoderOutput
from fastmim_jax.models.decoder import HEAD_WIDTH, Decoder
from helpers.sweeps import sweep

BATCH, GRID, WIDTH, OUTPUTS = 2, (2, 3), 8, 5


def encoded(prefix=1):
    rng, shapes = np.random.default_rng(0), ((BATCH, *GRID, WIDTH), (BATCH, prefix, WIDTH))
    return EncoderOutput(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes))


def apply(decoder, variables, outputs):
    """Return the predictions; one compiled program takes a fraction of the time."""
    return jax.jit(decoder.apply)(variables, outputs)


def create(prefix=1, **options):
    """-> (decoder, random variables, the output of an encoder)."""
    decoder, outputs = Decoder(OUTPUTS, **{"width": 64, **options}), encoded(prefix)
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), outputs)
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(1)
    values = [jnp.asarray(0.2 * rng.normal(size=x.shape), jnp.float32) for x in leaves]
    return decoder, jax.tree.unflatten(tree, values), outputs


def test_without_blocks_there_is_a_norm_and_a_head_only():
    decoder, variables, outputs = create(depth=0)
    assert variables["params"].keys() == {"norm", "pred"}
    params = variables["params"]
    x = np.asarray(outputs.tokens)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * params["norm"]["scale"] + params["norm"]["bias"]
    expected = x @ params["pred"]["kernel"] + params["pred"]["bias"]
    np.testing.assert_allclose(apply(decoder, variables, outputs), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", sweep([0, 1, 2], [1], pytest.mark.slow))
def test_predictions_are_of_the_grid_alone(prefix):
    decoder, variables, outputs = create(prefix)
    predictions = apply(decoder, variables, outputs)
    assert predictions.shape == (BATCH, *GRID, OUTPUTS)
    changed = apply(decoder, variables, outputs._replace(prefix=outputs.prefix + jnp.arange(WIDTH)))
    assert bool((changed != predictions).any()) == (prefix > 0)  # the prefix takes part in the attention


@pytest.mark.slow
def test_predictions_follow_their_tokens():
    """No positions are added here: the method does that."""
    decoder, variables, outputs = create()
    predictions = apply(decoder, variables, outputs)
    flipped = apply(decoder, variables, outputs._replace(tokens=outputs.tokens[:, ::-1]))
    np.testing.assert_allclose(flipped, predictions[:, ::-1], atol=1e-5)
    assert np.abs(predictions - predictions[:, ::-1]).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(("width", "heads"), [(16, 1), (64, 2), (96, 3)])
def test_heads_have_32_channels_by_default(width, heads):
    assert HEAD_WIDTH == 32
    decoder, variables, outputs = create(width=width)
    default = apply(decoder, variables, outputs)
    same = apply(decoder.clone(heads=heads), variables, outputs)
    np.testing.assert_array_equal(default, same)
    assert np.abs(apply(decoder.clone(heads=4), variables, outputs) - default).max() > 1e-4


@pytest.mark.slow
def test_gradients_reach_all_parameters_the_tokens_and_the_prefix():
    decoder, variables, outputs = create()

    def loss(variables, outputs):
        return jnp.square(decoder.apply(variables, outputs)).sum()

    gradients = jax.jit(jax.grad(loss, (0, 1)))(variables, outputs)
    for path, x in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(x).all() and np.any(x), jax.tree_util.keystr(path)


@pytest.mark.slow
def test_predictions_are_float32_of_any_computation():
    decoder, variables, outputs = create()
    exact = apply(decoder, variables, outputs)
    rounded = apply(decoder.clone(dtype=jnp.bfloat16), variables, outputs)
    assert rounded.dtype == jnp.float32 and 0 < np.abs(rounded - exact).max() < 0.2
