"""CrossMAE against the published code, and its own properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax import create_method
from fastmim_jax.mim.crossmae import CrossMAE
from fastmim_jax.models.cross_decoder import CrossDecoder
from helpers import initial, later_methods, published, small

CASES, NUMBERS = published.load("crossmae")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_equals_published(name):
    """The case "last" has the norm of the encoder that the published constructor forgets."""
    case, maps = CASES[name], name
    weights = published.weights(CASES, name)
    mixing = weights.pop("wfm.linear.weight", np.zeros((0, 3), np.float32))
    own = {f"decoder__blocks__{block}__map_weights": row for block, row in enumerate(mixing)}
    if maps == "all":  # without a last norm
        own |= {
            "encoder__norm__scale": np.ones(48, np.float32),
            "encoder__norm__bias": np.zeros(48, np.float32),
        }
    params = later_methods.params_of(weights, **own)
    throw_ratio = 0.75 - case["config"]["kept_mask_ratio"] if maps == "last" else 0.5
    method = later_methods.method_of(
        "crossmae", case, feature_maps=maps, **{"partial.throw_ratio": throw_ratio}
    )
    images, noise = published.images(case["seed"], case["batch"], 64, 64), NUMBERS[f"{name}/noise"]
    out, grads = small.forward_and_gradients(method, params, images, noise)
    found = later_methods.gradients_of(grads, weights)
    if maps == "all":
        blocks = grads["decoder"]["blocks"]
        found["wfm.linear.weight"] = np.stack([blocks[str(i)]["map_weights"] for i in range(len(mixing))])
        assert not np.any(grads["encoder"]["norm"]["scale"])
    published.assert_equal(case, out, found)
    weight = np.asarray(out.loss_weight).reshape(4, -1)
    np.testing.assert_array_equal(weight, NUMBERS[f"{name}/mask"])
    predicted = np.asarray(out.prediction)[..., ::16].reshape(4, 16, -1)[weight > 0]
    expected = NUMBERS[f"{name}/prediction"]
    np.testing.assert_allclose(predicted.reshape(expected.shape), expected, rtol=0, atol=5e-6)


@pytest.mark.slow
def test_thrown_patches_change_nothing_and_count_in_nothing():
    config = small.mae(small.config())
    config.method.name = "crossmae"
    config.method.partial.update(throw_ratio=0.5, sampler="random", fill="none")
    method = create_method(config.method)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    noise = jax.random.uniform(jax.random.key(1), (2, 16))
    variables = initial.variables(method, {"params": jax.random.key(2), "mask": jax.random.key(3)}, images)
    assert isinstance(method, CrossMAE) and method.num_thrown(16) == 8
    apply = jax.jit(method.apply)
    out = apply(variables, images, noise=noise)
    counts = [float(x.sum()) for x in (out.mask, out.loss_weight, out.thrown)]
    assert counts == [24, 8, 16]
    thrown = np.asarray(out.thrown > 0).repeat(8, 1).repeat(8, 2)[..., None]
    again = apply(variables, jnp.where(thrown, images + 5, images), noise=noise)
    assert float(again.loss) == float(out.loss)
    assert not np.asarray(out.prediction)[np.asarray(out.loss_weight) == 0].any()


@pytest.mark.slow
def test_predictions_do_not_depend_on_one_another():
    decoder = CrossDecoder(5, width=8, depth=2, heads=2)
    maps = [jax.random.normal(jax.random.key(i), (2, 3, 4)) for i in range(3)]
    queries = jax.random.normal(jax.random.key(3), (2, 6, 8))
    variables = decoder.init(jax.random.key(4), queries, maps)
    whole = decoder.apply(variables, queries, maps)
    np.testing.assert_allclose(decoder.apply(variables, queries[:, 2:4], maps), whole[:, 2:4], atol=1e-6)
