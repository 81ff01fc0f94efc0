"""Attention kernels at every number of tokens, without a GPU.

    python experiments/step_gpu/lengths.py              lower both kernels for CUDA, forward and backward
    python experiments/step_gpu/lengths.py --interpret  also run Pallas's in Python, against XLA's attention

Lowering builds cuDNN's calls, with the checks of the machine's cuDNN left out, and the Triton programs of
Pallas; it shows that every length is accepted, not what a GPU computes.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from fastmim_jax.models import attention, triton_blocks
from fastmim_jax.models.attention_kernels import xla_attention
from fastmim_jax.models.triton_attention import MAX_TOKENS, window_attention

LENGTHS = range(1, 301)
BATCH, HEADS, HEAD_WIDTH = 2, 1, 32
CALLS = ("__gpu$xla.gpu.triton", "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")


def lower(function, *shapes):
    """Lower a function for CUDA and return the module's text."""
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in CALLS]
    exported = export.export(jax.jit(function), platforms=["cuda"], disabled_checks=checks)(*shapes)
    return exported.mlir_module()


def lower_cudnn(length):
    """Return whether a block with cuDNN's kernel, padded as in a ViT, lowers with both of its calls."""
    options = dict(heads=HEADS, kernel="cudnn", dtype=jnp.bfloat16)
    blocks = attention.TransformerStack(attention.TransformerBlock, 1, options)
    x = jax.ShapeDtypeStruct((BATCH, length, HEADS * HEAD_WIDTH), jnp.bfloat16)
    variables = jax.eval_shape(blocks.init, jax.random.key(0), x)

    def loss(variables, x):
        return blocks.apply(variables, x).astype(jnp.float32).sum()

    text = lower(jax.grad(loss, (0, 1)), variables, x)
    return all(name in text for name in CALLS[1:])


def pallas_loss(query, key, value, bias, weight):
    """Return a sum over the output of the kernels in Pallas."""
    return (window_attention(query, key, value, bias).astype(jnp.float32) * weight).sum()


def xla_loss(query, key, value, bias, weight):
    """Return the same with XLA's attention."""
    return (xla_attention(query, key, value, bias).astype(jnp.float32) * weight).sum()


def pallas_shapes(length):
    """Return the shapes of query, key, value, bias and the weights of the loss."""
    x = jax.ShapeDtypeStruct((BATCH, length, HEADS, HEAD_WIDTH), jnp.bfloat16)
    bias = jax.ShapeDtypeStruct((1, HEADS, length, length), jnp.float32)
    return x, x, x, bias, jax.ShapeDtypeStruct(x.shape, jnp.float32)


def lower_pallas(length):
    """Return whether the kernels lower, two calls or more."""
    text = lower(jax.value_and_grad(pallas_loss, (0, 1, 2, 3)), *pallas_shapes(length))
    return text.count(CALLS[0]) >= 2


def interpreted_error(length):
    """Return the largest error of a gradient relative to float32, by Pallas interpreted and by XLA."""
    keys = jax.random.split(jax.random.key(length), 5)
    arrays = [
        jax.random.normal(key, shape.shape, shape.dtype)
        for key, shape in zip(keys, pallas_shapes(length), strict=True)
    ]
    exact = [x.astype(jnp.float32) for x in arrays]
    expected = jax.jit(jax.grad(xla_loss, (0, 1, 2, 3)))(*exact)
    errors = []
    for loss in (pallas_loss, xla_loss):
        found = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*arrays)
        # With one token the weights are 1, and the gradients of query, key and bias zero.
        pairs = [pair for pair in zip(found, expected, strict=True) if np.linalg.norm(pair[1]) > 1e-3]
        errors.append(max(float(np.linalg.norm(x - y) / np.linalg.norm(y)) for x, y in pairs))
    return errors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interpret", action="store_true", help="run the kernels in Pallas, in Python")
    parser.add_argument("--step", type=int, default=1, help="of the lengths")
    args = parser.parse_args()
    cudnn.check_cudnn_version = lambda: 91200
    cudnn.check_compute_capability = lambda capability: True
    lengths = LENGTHS[:: args.step]
    windows = [length for length in lengths if length <= MAX_TOKENS]
    for name, lower_kernel, tried in (("cuDNN", lower_cudnn, lengths), ("Pallas", lower_pallas, windows)):
        failed = [length for length in tried if not lower_kernel(length)]
        print(f"{name}: {len(tried)} lengths from {tried[0]} to {tried[-1]}, without calls: {failed}")
        jax.clear_caches()
    if args.interpret:
        triton_blocks.interpret = True
        errors = {}
        for length in windows:
            errors[length] = interpreted_error(length)
            jax.clear_caches()
        for index, name in enumerate(("Pallas, interpreted", "XLA")):
            worst = max(errors, key=lambda length: errors[length][index])
            print(f"{name}: largest relative error {errors[worst][index]:.2e}, with {worst} tokens")


if __name__ == "__main__":
    main()
