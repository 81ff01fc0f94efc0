"""Gradients in bfloat16 against float32: tiny models of every family, on smooth random images.

python experiments/bfloat16/measure.py [FAMILY ...]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import numpy as np

from fastmim_jax import create_method
from fastmim_jax.config import pretrain_config

PYRAMID = dict(widths=(16, 32, 32, 64), depths=(1, 1, 2, 1), heads=(1, 1, 2, 2))
WINDOWS = dict(width=32, depths=(1, 1, 2, 1), heads=(1, 2, 2, 4))
BACKBONES = {
    "vit": dict(name="vit_ti16", patch_size=8, width=64, depth=2, heads=2),
    "swin": dict(name="swin_t", **WINDOWS),
    "pvt_v2": dict(name="pvt_v2_b0", **PYRAMID),
    "cmt": dict(name="cmt_ti", stem_width=8, **PYRAMID),
    "convnext": dict(name="convnext_t", widths=(16, 32, 64, 64), depths=(1, 1, 2, 1)),
    "mixmim": dict(name="mixmim_b", **WINDOWS),
}
CASES = (  # method, family, target, side of a masked block
    ("fastmim", "vit", "hog", 16),
    ("fastmim", "swin", "hog", 32),
    ("fastmim", "pvt_v2", "hog", 32),
    ("fastmim", "cmt", "hog", 32),
    ("fastmim", "convnext", "hog", 32),
    ("mae", "vit", "pixel", 8),
    ("simmim", "vit", "pixel", 8),
    ("simmim", "swin", "pixel", 32),
    ("mixmim", "mixmim", "pixel", 32),
)
SEEDS, BATCH, SIDE = (0, 1, 2), 16, 64


def make_method(name, family, target, block, **compute):
    """Return a tiny method with a dtype and a residual_dtype."""
    method = pretrain_config().method
    method.backbone.update(BACKBONES[family])
    method.update(name=name, target=target, block_size=block, **compute)
    method.decoder.update(width=32, depth=1)
    if name == "mixmim":
        method.groups = 2
    return create_method(method)


def gradient(method, variables, images, noise):
    """Return the gradient of the loss, one vector."""
    params, others = variables["params"], {key: x for key, x in variables.items() if key != "params"}

    def loss(params):
        out, _ = method.apply({"params": params, **others}, images, noise=noise, mutable=list(others))
        return out.loss

    leaves = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
    return np.concatenate([np.ravel(leaf) for leaf in leaves]).astype(np.float64)


def cosines(case, seed):
    """Return the cosines with the float32 gradient: in bfloat16, and with a float32 residual stream."""
    exact = make_method(*case, dtype="float32")
    small = jax.random.normal(jax.random.key(seed + 10), (BATCH, SIDE // 4, SIDE // 4, 3))
    images = jax.image.resize(small, (BATCH, SIDE, SIDE, 3), "cubic")
    noise = jax.random.uniform(jax.random.key(seed), exact.noise_shape(images.shape))
    variables = exact.init({"params": jax.random.key(seed)}, images, noise=noise)
    expected = gradient(exact, variables, images, noise)
    for residual in ("", "float32"):
        method = make_method(*case, dtype="bfloat16", residual_dtype=residual)
        found = gradient(method, variables, images, noise)
        yield found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)


def main():
    for case in CASES:
        if sys.argv[1:] and case[1] not in sys.argv[1:]:
            continue
        columns = zip(*(cosines(case, seed) for seed in SEEDS), strict=True)
        for name, column in zip(("bfloat16", "float32 residual"), columns, strict=True):
            print(*case[:2], f"{name}:", *(f"{value:.5f}" for value in column))


if __name__ == "__main__":
    main()
