"""The exact GELU and its derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from fastmim_jax.models.gelu import gelu

X = np.linspace(-12, 12, 4001)


def test_equals_its_definition():
    exact = X / 2 * (1 + erf(X / np.sqrt(2)))
    np.testing.assert_allclose(gelu(jnp.asarray(X, jnp.float32)), exact, rtol=1e-6, atol=1e-6)


def test_derivative_equals_its_definition():
    exact = (1 + erf(X / np.sqrt(2))) / 2 + X * np.exp(-X * X / 2) / np.sqrt(2 * np.pi)
    derivative = jax.vmap(jax.grad(gelu))(jnp.asarray(X, jnp.float32))
    np.testing.assert_allclose(derivative, exact, atol=5e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_backward_pass_keeps_the_input_alone(dtype):
    x = jnp.ones((3, 5), dtype)
    _, vjp = jax.vjp(gelu, x)
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(vjp)] == [((3, 5), dtype)]
