"""Attention: XLA's kernel against plain softmax attention, cuDNN's by tracing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.models import attention, attention_kernels
from fastmim_jax.models.attention_kernels import choose_kernel, describe_kernel, xla_attention
from fastmim_jax.models.zoo import create_model
from helpers import initial
from helpers.sweeps import sweep

BATCH, QUERIES, KEYS, HEADS, WIDTH = 3, 5, 7, 2, 4


def plain_attention(query, key, value, bias=None, mask=None):
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    scores = scores if bias is None else scores + bias
    scores = scores if mask is None else jnp.where(mask, scores, -1e30)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), value)


def inputs(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    counts = (QUERIES, KEYS, KEYS)
    qkv = [
        jax.random.normal(key, (BATCH, count, HEADS, WIDTH), dtype)
        for key, count in zip(keys, counts, strict=False)
    ]
    return *qkv, jax.random.normal(keys[3], (HEADS, QUERIES, KEYS))


def gradients(kernel, query, key, value, bias, mask=None):
    weight = jnp.cos(jnp.arange(query.size)).reshape(query.shape)
    loss = lambda *arrays: (kernel(*arrays, mask) * weight).sum()  # noqa: E731
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))(query, key, value, bias)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_equal_plain_attention(masked, padded, monkeypatch):
    if padded:  # as 16-bit products on a GPU
        pad = lambda x: attention_kernels._pad_tokens(jnp.swapaxes(x, -2, -3), 8)  # noqa: E731
        monkeypatch.setattr(attention_kernels, "_heads_first", pad)
    mask = None
    if masked:
        mask = jax.random.bernoulli(jax.random.key(1), 0.6, (BATCH, 1, QUERIES, KEYS)).at[..., 0].set(True)
    ours, plain = (jax.tree.leaves(gradients(f, *inputs(), mask)) for f in (xla_attention, plain_attention))
    for array, expected in zip(ours, plain, strict=True):
        np.testing.assert_allclose(array, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
def test_no_float32_scores_are_kept():
    *qkv, bias = inputs(jnp.bfloat16)
    _, vjp = jax.vjp(lambda *arrays: xla_attention(*arrays, bias), *qkv)
    scores = [leaf for leaf in jax.tree.leaves(vjp) if leaf.shape == (BATCH, HEADS, QUERIES, KEYS)]
    assert [leaf.dtype for leaf in scores] == [jnp.bfloat16]  # the weights


def test_auto_is_xla_without_a_gpu():
    assert choose_kernel("auto", jnp.bfloat16, 64, has_bias=False) == "xla"
    assert choose_kernel("cudnn", jnp.bfloat16, 64, has_bias=False) == "cudnn"


@pytest.fixture
def gpu(monkeypatch):
    """A machine that seems to have an NVIDIA GPU with cuDNN; programs can be traced, not run."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(attention_kernels, "on_nvidia_gpu", lambda: True)
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False)
    attention_kernels.cudnn_refusal.cache_clear()
    yield
    attention_kernels.cudnn_refusal.cache_clear()


@pytest.mark.parametrize(
    "dtype, head_width, has_bias, expected",
    [
        (jnp.bfloat16, 64, False, "cudnn"),
        (jnp.bfloat16, 64, True, "pallas"),
        (jnp.float32, 64, False, "xla"),
        (jnp.bfloat16, 20, False, "xla"),  # not a multiple of 8
    ],
)
def test_auto_on_a_gpu(gpu, dtype, head_width, has_bias, expected):
    assert choose_kernel("auto", dtype, head_width, has_bias) == expected


def test_the_reason_against_a_fused_kernel_is_given(gpu, monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    describe = lambda width, has_bias: describe_kernel("auto", jnp.bfloat16, width, has_bias)  # noqa: E731
    assert (describe(64, False), describe(64, True)) == ("cudnn", "pallas")
    assert describe(20, False).startswith("xla (no cuDNN: The head dim must be")
    assert describe(20, True) == "xla (no kernel in Pallas for heads of 20 channels)"
    assert describe_kernel("auto", jnp.float32, 20, False) == "xla"

    def missing():
        raise RuntimeError("cuDNN is not detected.")

    monkeypatch.setattr(cudnn, "check_cudnn_version", missing)
    attention_kernels.cudnn_refusal.cache_clear()
    assert describe(88, False) == "xla (no cuDNN: cuDNN is not detected)"  # 64 was traced before


@pytest.mark.slow
def test_cudnn_is_traced_for_even_and_odd_lengths(gpu):
    blocks = attention.TransformerStack(
        attention.TransformerBlock, 1, dict(heads=1, kernel="cudnn", dtype=jnp.bfloat16)
    )
    for length in (1, 2, 197, 300):  # JAX refuses odd ones
        x = jax.ShapeDtypeStruct((2, length, 8), jnp.bfloat16)
        variables = jax.eval_shape(blocks.init, jax.random.key(0), x)
        loss = lambda variables, x: blocks.apply(variables, x).astype(jnp.float32).sum()  # noqa: E731
        assert jax.eval_shape(jax.grad(loss, argnums=1), variables, x).shape == x.shape


HOW = [(layers, remat) for layers in ("unrolled", "scanned") for remat in ("none", "full")]


@pytest.mark.parametrize(("layers", "remat"), sweep(HOW, [("scanned", "full")], pytest.mark.slow))
def test_cudnn_is_traced_in_a_vit(gpu, layers, remat):
    options = dict(width=16, depth=2, heads=2, layers=layers, remat=remat, dtype=jnp.bfloat16)
    model = create_model("vit_ti16", **options)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)  # 4 patches and cls: an odd length
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(variables, images):
        return model.apply(variables, images).tokens.astype(jnp.float32).sum()

    program = str(jax.make_jaxpr(jax.grad(loss))(variables, images))
    assert "dot_product_attention_bwd" in program


@pytest.mark.slow
def test_one_token_of_padding_changes_nothing(monkeypatch):
    """Padded as for cuDNN's kernel, with a plain kernel that reads the lengths in its place."""

    def plain(query, key, value, lengths):
        mask = jnp.arange(key.shape[1]) < (key.shape[1] if lengths is None else lengths[0])
        return plain_attention(query, key, value, mask=mask)

    options = dict(heads=2, dtype=jnp.float32)
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    stacks = [
        attention.TransformerStack(attention.TransformerBlock, 2, dict(options, kernel=kernel))
        for kernel in ("xla", "cudnn")
    ]
    monkeypatch.setattr(attention, "cudnn_attention", plain)
    variables = initial.variables(stacks[0], jax.random.key(1), x)

    @jax.jit
    def outcomes(variables):
        sines = [lambda v, s=stack: jnp.sin(s.apply(v, x)).sum() for stack in stacks]
        return [stack.apply(variables, x) for stack in stacks], [jax.grad(f)(variables) for f in sines]

    (expected, padded), (loss_grads, padded_grads) = outcomes(variables)
    np.testing.assert_allclose(padded, expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), loss_grads, padded_grads
    )
