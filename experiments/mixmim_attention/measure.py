"""Attention in a mixture of two images: masked over all cells, or gathered by image first.

    python experiments/mixmim_attention/measure.py

One layer's attention of MixMIM-B at 224 px, forward and backward, in its last two stages, where windows
cover the grid. Masked: all pairs of cells, with a mask over pairs from different images. Gathered: the
cells of each image are gathered, two attentions of about half the length, and scattered back. The two
forms alternate; the minimum over the repeats is reported.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.mim.masking import mixing_mask
from fastmim_jax.models.base import AttentionGroups
from fastmim_jax.models.swin import group_attention, masked_attention, relative_position_index

STAGES = {
    "stage 3": (14, 16, 2),
    "stage 4": (7, 32, 1),
}  # cells along a side, heads, refinement of the mask
GROUPS, RATIO, HEAD_WIDTH = 2, 0.5, 32


def masked(qkv, bias, labels, members):
    """(B, N, 3, heads, d) -> (B, N, heads, d), all pairs of cells computed."""
    labels = jnp.repeat(labels, len(qkv) // len(labels), axis=0)
    same = labels[:, None, :, None] == labels[:, None, None, :]
    return masked_attention(qkv[:, None], bias, same)[:, 0]


def gathered(qkv, bias, labels, members):
    """The same, by attention among the cells of each image."""
    return group_attention(qkv, bias, members)


def inputs(side, heads, factor, batch):
    """Return random projections and biases, and the groups of a mixture."""
    random = np.random.default_rng(0)
    qkv = random.normal(size=(batch, side * side, 3, heads, HEAD_WIDTH)).astype(np.float32)
    table = random.normal(size=(2 * side - 1, 2 * side - 1, heads)).astype(np.float32)
    bias = np.moveaxis(table[relative_position_index((side, side))], -1, 0)
    mask, members = mixing_mask(jnp.asarray(random.random((GROUPS, 49))), (7, 7), RATIO)
    labels, members = AttentionGroups(mask, members).upsample(factor)
    return jnp.asarray(qkv), jnp.asarray(bias), labels.reshape(GROUPS, -1), members


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    results = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "batch": args.batch}
    for name, (side, heads, factor) in STAGES.items():
        case = inputs(side, heads, factor, args.batch)
        np.testing.assert_allclose(masked(*case), gathered(*case), atol=1e-5)
        steps = []
        for form in (masked, gathered):
            loss = lambda *case, form=form: jnp.square(form(*case)).sum()  # noqa: E731
            steps.append(jax.jit(jax.grad(loss, argnums=(0, 1))))
            jax.block_until_ready(steps[-1](*case))
        times = [[], []]
        for _ in range(args.repeats):
            for step, seconds in zip(steps, times, strict=True):
                start = time.perf_counter()
                jax.block_until_ready(step(*case))
                seconds.append(time.perf_counter() - start)
        least = [1e3 * min(seconds) for seconds in times]
        results[name] = {"masked_ms": least[0], "gathered_ms": least[1], "ratio": least[1] / least[0]}
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
