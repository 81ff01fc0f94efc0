"""Attention inside windows against attention over all tokens of each window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.models import triton_blocks, window_attention
from fastmim_jax.models.window_attention import WindowAttention, masked_attention
from helpers import initial


@pytest.mark.slow
def test_each_window_attends_to_itself_alone():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 8))
    layer = WindowAttention(2, (2, 2))
    variables = initial.variables(layer, jax.random.key(1), x)
    together = layer.apply(variables, x)
    for window in range(3):
        alone = layer.apply(variables, x[:, window : window + 1])
        np.testing.assert_allclose(together[:, window], alone[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_bias_of_each_part_of_the_batch_acts_on_that_part():
    random = np.random.default_rng(0)
    qkv = [jnp.asarray(random.normal(size=(4, 1, 5, 2, 3)), jnp.float32) for _ in range(3)]
    bias = jnp.asarray(random.normal(size=(2, 2, 5, 5)), jnp.float32)
    both = masked_attention(*qkv, bias)
    for part, rows in enumerate((slice(0, 2), slice(2, 4))):
        alone = masked_attention(*(x[rows] for x in qkv), bias[part : part + 1])
        np.testing.assert_allclose(both[rows], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_fused_kernel_takes_shift_mask_and_labels(monkeypatch):
    x = jax.random.normal(jax.random.key(0), (2, 4, 9, 32))
    mask = np.arange(9) % 2 == np.arange(9)[:, None] % 2
    mask = np.stack([mask | (np.arange(4)[place] > 1) for place in range(4)])
    labels = jax.random.bernoulli(jax.random.key(1), 0.5, (2, 4, 9))
    layer = WindowAttention(2, (3, 3))
    params = initial.variables(layer, jax.random.key(2), x)
    expected = layer.apply(params, x, mask, labels)
    monkeypatch.setattr(triton_blocks, "interpret", True)
    monkeypatch.setattr(window_attention, "choose_kernel", lambda *_: "pallas")
    np.testing.assert_allclose(layer.apply(params, x, mask, labels), expected, atol=2e-6)
