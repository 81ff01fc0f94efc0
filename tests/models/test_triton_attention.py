"""The Pallas kernels of window attention, interpreted on a CPU, against plain attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from fastmim_jax.models import triton_attention, triton_blocks, triton_large_windows, triton_small_windows
from fastmim_jax.models.triton_attention import window_attention
from helpers.sweeps import sweep


@pytest.fixture(autouse=True)
def interpret(monkeypatch):
    """Interpret the kernels, with programs that take several windows each and differ in their number."""
    monkeypatch.setattr(triton_blocks, "interpret", True)
    monkeypatch.setattr(triton_small_windows, "PROGRAMS", 4)


def plain_attention(query, key, value, bias, labels, shift_mask):
    scores = jnp.einsum("wqhd,wkhd->whqk", query, key) * query.shape[-1] ** -0.5 + bias[0]
    if shift_mask is not None:
        mask = jnp.tile(shift_mask, (len(query) // len(shift_mask), 1, 1))
        scores = jnp.where(mask[:, None], scores, -jnp.inf)
    if labels is not None:
        scores = jnp.where((labels[:, :, None] == labels[:, None, :])[:, None], scores, -jnp.inf)
    return jnp.einsum("whqk,wkhd->wqhd", jax.nn.softmax(scores), value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tokens, has_labels, has_mask",
    sweep([(16, False, True), (20, True, False), (70, True, True)], [(70, True, True)]),
)
def test_equals_plain_attention(tokens, has_labels, has_mask):
    windows, heads, width = 4, 2, 16
    keys = jax.random.split(jax.random.key(0), 7)
    query, key, value, gradient = (jax.random.normal(k, (windows, tokens, heads, width)) for k in keys[:4])
    bias = jax.random.normal(keys[4], (1, heads, tokens, tokens))
    labels = jax.random.randint(keys[5], (windows, tokens), 0, 3) if has_labels else None
    eye = np.eye(tokens, dtype=bool)
    mask = np.asarray(jax.random.bernoulli(keys[6], 0.5, (2, tokens, tokens))) | eye if has_mask else None

    def value_and_gradients(function):
        def attend(*arrays):
            return function(*arrays, labels, mask)

        output, vjp = jax.vjp(attend, query, key, value, bias)
        return output, *vjp(gradient)

    expected = value_and_gradients(plain_attention)
    for got, want in zip(
        jax.jit(value_and_gradients, static_argnums=0)(window_attention), expected, strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-6 * abs(want).max())


@pytest.mark.parametrize("tokens", [1, 64, 65, 256])
def test_both_kinds_of_kernels_are_traced(tokens):
    query = jax.ShapeDtypeStruct((2, tokens, 1, 16), jnp.bfloat16)
    bias = jax.ShapeDtypeStruct((1, 1, tokens, tokens), jnp.float32)
    loss = lambda *arrays: window_attention(*arrays).astype(jnp.float32).sum()  # noqa: E731
    gradients = jax.eval_shape(jax.grad(loss, (0, 3)), query, query, query, bias)
    assert [x.shape for x in gradients] == [query.shape, bias.shape]


@pytest.mark.slow
def test_each_device_takes_its_windows_and_its_copy_of_the_bias():
    keys = jax.random.split(jax.random.key(1), 4)
    query, key, value = (jax.random.normal(k, (4, 9, 1, 16)) for k in keys[:3])
    bias = jax.random.normal(keys[3], (2, 1, 9, 9))

    def loss(query, key, value, bias):
        return (window_attention(query, key, value, bias) ** 2).sum()

    halves = [(query[rows], key[rows], value[rows]) for rows in (slice(0, 2), slice(2, 4))]
    expected = [jax.grad(loss, 3)(*half, bias[i : i + 1]) for i, half in enumerate(halves)]
    with jax.set_mesh(jax.make_mesh((2, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)):
        got = jax.jit(jax.grad(loss, 3))(query, key, value, bias)
    np.testing.assert_allclose(got, np.concatenate(expected), rtol=1e-5, atol=1e-6)


def test_supports_what_fits_a_program():
    assert triton_attention.supports(197, 64, jnp.bfloat16)
    assert not triton_attention.supports(197, 64, jnp.float32)
    assert not triton_attention.supports(257, 64, jnp.bfloat16)
    assert not triton_attention.supports(49, 48, jnp.bfloat16)


def test_tokens_are_padded_to_what_products_take():
    assert [triton_small_windows.padded_tokens(count) for count in (9, 16, 36, 64)] == [16, 16, 64, 64]
    assert [triton_large_windows.padded_tokens(count) for count in (65, 197, 256)] == [128, 256, 256]
