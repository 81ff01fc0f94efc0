import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.models.convolution import BatchNorm, Conv, DepthwiseConv, _depthwise, _shifted_sums
from fastmim_jax.tools.flops import matrix_flops
from helpers import initial

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("size", [3, 7])
def test_both_forms_of_the_depthwise_convolution_agree(size):
    x = jnp.asarray(RANDOM.normal(size=(2, 6, 9, 4)), jnp.float32)
    kernel = jnp.asarray(RANDOM.normal(size=(size, size, 1, 4)), jnp.float32)
    np.testing.assert_allclose(_shifted_sums(x, kernel), _depthwise(x, kernel), atol=1e-5)


def test_depthwise_convolution_counts_its_products_once():
    x = jnp.zeros((1, 6, 8, 4))
    module = DepthwiseConv()
    variables = initial.variables(module, jax.random.key(0), x)
    assert matrix_flops(module.apply, variables, x) == 2 * 6 * 8 * 4 * 9


@pytest.mark.slow
def test_convolution_pads_by_half_its_size():
    x = jnp.ones((1, 8, 12, 3))
    for size, stride, grid in ((7, 4, (2, 3)), (3, 2, (4, 6)), (3, 1, (8, 12))):
        module = Conv(5, size, stride)
        variables = initial.variables(module, jax.random.key(0), x)
        out = module.apply(variables, x)
        assert out.shape == (1, *grid, 5)
        corner = variables["params"]["kernel"][size // 2 :, size // 2 :].sum((0, 1, 2))
        np.testing.assert_allclose(out[0, 0, 0], corner, atol=1e-5)


def batch_norm(x, groups=1):
    module = BatchNorm(groups)
    variables = initial.variables(module, jax.random.key(0), x[:1])
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)  # init leaves them alone
    out, after = module.apply(variables, x, mutable=["batch_stats"])
    return module, variables, out, after["batch_stats"]


@pytest.mark.slow
def test_batch_norm_in_training_and_in_evaluation():
    x = RANDOM.normal(3, 2, size=(4, 3, 5, 6)).astype(np.float32)
    module, variables, out, after = batch_norm(x)
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((0, 1, 2)), 1, atol=1e-4)
    np.testing.assert_allclose(after["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(after["var"], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-4)
    still = module.apply({**variables, "batch_stats": after}, x)
    expected = (x - after["mean"]) / np.sqrt(after["var"] + 1e-5)
    np.testing.assert_allclose(still, expected, atol=1e-5)


@pytest.mark.slow
def test_groups_of_a_batch_have_statistics_of_their_own():
    x = RANDOM.normal(size=(6, 2, 2, 3)).astype(np.float32) * np.arange(1, 7)[:, None, None, None]
    out, after = batch_norm(x, 3)[2:]
    alone = [batch_norm(x[start : start + 2])[2:] for start in (0, 2, 4)]
    np.testing.assert_allclose(out, np.concatenate([part for part, _ in alone]), atol=1e-5)
    np.testing.assert_allclose(after["var"], np.mean([stats["var"] for _, stats in alone], 0), rtol=1e-5)


def test_a_batch_that_does_not_divide_into_groups_is_an_error():
    with pytest.raises(ValueError, match="5 images cannot be split into 2 groups"):
        batch_norm(np.zeros((5, 2, 2, 3), np.float32), 2)
