"""Linear layers and the sums over the batch in their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.models.linear import Dense, SplitDense, broadcast_parameter, matmul, sum_to_shape
from helpers import initial

KEYS = jax.random.split(jax.random.key(0), 4)
X = jax.random.normal(KEYS[0], (4, 3, 5, 8))
KERNEL = jax.random.normal(KEYS[1], (8, 6))


@pytest.mark.slow
def test_product_and_gradients_are_those_of_the_plain_product():
    weight = jax.random.normal(KEYS[2], (4, 3, 5, 6))
    grads = [
        jax.grad(lambda x, k, f=f: (f(x, k) * weight).sum(), argnums=(0, 1))(X, KERNEL)
        for f in (matmul, jnp.matmul)
    ]
    for ours, plain in zip(*grads, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_kernel_gradient_has_the_dtype_of_the_kernel(dtype):
    x, kernel = X.astype(jnp.bfloat16), KERNEL.astype(dtype)
    y, vjp = jax.vjp(matmul, x, kernel)
    x_gradient, kernel_gradient = vjp(y)
    assert y.dtype == x_gradient.dtype == jnp.bfloat16 and kernel_gradient.dtype == dtype


def test_gradient_of_a_bias_in_bfloat16_is_summed_in_float32():
    x = jnp.zeros((4096, 2), jnp.bfloat16)
    gradient = jax.grad(lambda bias: (x + broadcast_parameter(bias, x)).astype(jnp.float32).sum())
    # bfloat16 cannot count beyond 256: 256 + 1 = 256.
    np.testing.assert_array_equal(gradient(jnp.zeros(2)), [4096, 4096])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(5,), (1,), (3, 1), (2, 3, 5), (1, 1, 5), (2, 1, 1)])
def test_sum_to_shape_is_the_gradient_of_broadcasting(shape):
    x = jax.random.normal(KEYS[3], (2, 3, 5))
    (expected,) = jax.vjp(lambda a: jnp.broadcast_to(a, x.shape), jnp.zeros(shape))[1](x)
    np.testing.assert_allclose(sum_to_shape(x, shape), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_parts_are_columns_of_one_layer():
    dense, split = Dense(12), SplitDense(3, 4)
    variables = initial.variables(dense, jax.random.key(1), X)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    shapes = jax.eval_shape(split.init, jax.random.key(1), X)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)
    parts = split.apply(variables, X)
    np.testing.assert_allclose(jnp.concatenate(parts, -1), dense.apply(variables, X), rtol=1e-5, atol=1e-6)
