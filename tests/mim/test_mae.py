"""MAE against the published code, and its own properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax import create_method
from fastmim_jax.export.formats.names import to_ours, to_theirs
from fastmim_jax.models.layers import gather_rows
from helpers import initial, published, small
from helpers.sweeps import sweep

CASES, NUMBERS = published.load("mae_vit")


@pytest.mark.parametrize("name", sweep(CASES, ["norm1"], pytest.mark.slow))
def test_equals_published(name):
    case = CASES[name]
    params = to_ours(published.weights(CASES, name), "mae_vit")["params"]
    noise, images = NUMBERS[f"{name}/noise"], published.images(case["seed"], case["batch"], 64, 64)
    out, grads = small.forward_and_gradients(small.published_mae(case), params, images, noise)
    published.assert_equal(case, out, to_theirs({"params": grads}, "mae_vit"))
    np.testing.assert_allclose(out.prediction[..., ::16], NUMBERS[f"{name}/prediction"], rtol=0, atol=5e-6)
    np.testing.assert_array_equal(out.mask, NUMBERS[f"{name}/mask"])


def tiny(**changes):
    config = small.mae(small.config())
    config.method.update_from_flattened_dict(changes)
    return create_method(config.method)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "shape"), [("pixel", (32, 64, 3)), ("hog", (48, 32, 5))])
def test_masked_pixels_do_not_reach_the_encoder(target, shape):
    method = tiny(target=target)
    images = jax.random.normal(jax.random.key(0), (3, *shape))
    noise = jax.random.uniform(jax.random.key(1), method.noise_shape(images.shape))
    variables = initial.variables(method, {"params": jax.random.key(2), "mask": jax.random.key(3)}, images)
    apply = jax.jit(method.apply)
    out = apply(variables, images, noise=noise)
    rows, columns = shape[0] // 8, shape[1] // 8
    assert out.prediction.shape == out.target.shape == (3, rows, columns, out.target.shape[-1])
    assert (np.asarray(out.mask).sum((1, 2)) == method.num_masked(rows * columns)).all()
    masked = (np.asarray(out.mask) > 0).repeat(8, 1).repeat(8, 2)[..., None]
    again = apply(variables, jnp.where(masked, images + 5, images), noise=noise)
    np.testing.assert_array_equal(out.prediction, again.prediction)
    np.testing.assert_array_equal(out.encoder_input, np.where(masked, 0, images))


@pytest.mark.slow
def test_gather_rows_has_the_gradient_of_a_gather():
    x = jax.random.normal(jax.random.key(0), (2, 6, 4))
    ids_shuffle = jnp.argsort(jax.random.uniform(jax.random.key(1), (2, 6)), axis=1)
    ids_restore = jnp.argsort(ids_shuffle, axis=1)
    weights = jax.random.normal(jax.random.key(2), (2, 3, 4))

    def ours(x):
        return (gather_rows(x, ids_shuffle[:, :3], ids_restore) * weights).sum()

    def plain(x):
        return (jnp.take_along_axis(x, ids_shuffle[:, :3, None], axis=1) * weights).sum()

    for function in (lambda f: f(x), lambda f: jax.grad(f)(x)):
        np.testing.assert_array_equal(function(ours), function(plain))
    back = gather_rows(x[:, :3], ids_restore, ids_shuffle[:, :3])
    np.testing.assert_array_equal(jnp.take_along_axis(back, ids_shuffle[:, :3, None], axis=1), x[:, :3])
    np.testing.assert_array_equal(jnp.take_along_axis(back, ids_shuffle[:, 3:, None], axis=1), 0)
