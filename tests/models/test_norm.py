"""Layer norm, in plain JAX and in its kernels for GPUs (run in Python here)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.models import norm, triton_norm
from fastmim_jax.models.device import on_nvidia_gpu
from fastmim_jax.models.norm import LayerNorm
from helpers.sweeps import sweep


@pytest.fixture
def kernels(monkeypatch):
    """The kernels instead of plain JAX, run in Python, with few programs so that each loops."""
    monkeypatch.setattr(norm, "on_nvidia_gpu", lambda: True)
    monkeypatch.setattr(triton_norm, "INTERPRET", True)
    monkeypatch.setattr(triton_norm, "PROGRAMS", 3)


def arrays(shape, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    x, branch, weight, passed = (jax.random.normal(key, shape).astype(dtype) for key in keys)
    vector = jax.random.normal(keys[0], (2, shape[-1]))
    params = {"params": {"scale": 1 + 0.1 * vector[0], "bias": vector[1]}}
    return params, x, branch, weight, passed


def outcome(params, x, branch, weight, passed, dtype=jnp.float32):
    """Return x + branch and its norm, and all gradients of a loss that uses both."""
    layer = LayerNorm(1e-6, dtype)

    def loss(params, x, branch):
        total, y = layer.apply(params, x, branch, method="after_residual")
        return (y * weight).sum() + (total * passed).sum(), (total, y)

    arguments = (0, 1) if branch is None else (0, 1, 2)
    grads, outputs = jax.grad(loss, arguments, has_aux=True)(params, x, branch)
    return jax.tree.leaves((outputs, grads))


@pytest.mark.slow
def test_equals_flax():
    params, x, *_ = arrays((2, 5, 24))
    expected = nn.LayerNorm(epsilon=1e-6, use_fast_variance=False).apply(params, x)
    np.testing.assert_array_equal(LayerNorm(1e-6).apply(params, x), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape",), sweep([((3, 32),), ((2, 5, 192),), ((1, 2, 7, 64),)], [((2, 5, 192),)])
)
@pytest.mark.parametrize("has_branch", [True, False])
def test_kernels_equal_plain_jax(shape, has_branch, request):
    params, x, branch, *weights = arrays(shape)
    inputs = params, x, branch if has_branch else None, *weights
    plain = outcome(*inputs)
    request.getfixturevalue("kernels")
    for fused, expected in zip(outcome(*inputs), plain, strict=True):
        np.testing.assert_allclose(fused, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
def test_kernels_take_a_float32_residual_stream(kernels):
    params, x, branch, weight, passed = arrays((2, 4, 64))
    total, y, *_ = outcome(params, x, branch.astype(jnp.bfloat16), weight, passed, jnp.bfloat16)
    assert total.dtype == jnp.float32 and y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(total, x + branch.astype(jnp.bfloat16).astype(jnp.float32))


def test_widths_without_large_powers_of_two_stay_with_xla():
    supported = {width: triton_norm.supports_width(width) for width in (96, 128, 768, 1280, 100, 352, 1000)}
    assert supported == {96: True, 128: True, 768: True, 1280: True, 100: False, 352: False, 1000: False}


def test_a_cpu_is_no_gpu():
    assert not on_nvidia_gpu()
    with jax.set_mesh(jax.make_mesh((1,), ("data",))):
        assert not on_nvidia_gpu()


def test_a_batch_that_the_devices_do_not_divide_stays_with_xla(kernels, monkeypatch):
    monkeypatch.setattr(norm, "batch_parts", lambda: 2)
    monkeypatch.setattr(triton_norm, "add_norm", None)  # would fail if it were called
    params, x, *_ = arrays((3, 32))
    assert LayerNorm(1e-6).apply(params, x).shape == x.shape
