"""Tiny methods of every family, and smooth random images for them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax

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
CASES = {  # method, family, side of a masked block, share of the tokens that is thrown (PR-MIM)
    "fastmim_vit": ("fastmim", "vit", 16, 0.0),
    "fastmim_swin": ("fastmim", "swin", 32, 0.0),
    "fastmim_pvt_v2": ("fastmim", "pvt_v2", 32, 0.0),
    "fastmim_cmt": ("fastmim", "cmt", 32, 0.0),
    "fastmim_convnext": ("fastmim", "convnext", 32, 0.0),
    "mae_vit": ("mae", "vit", 8, 0.0),
    "simmim_vit": ("simmim", "vit", 8, 0.0),
    "simmim_swin": ("simmim", "swin", 32, 0.0),
    "mixmim": ("mixmim", "mixmim", 32, 0.0),
    "pr_mim_vit": ("mae", "vit", 8, 0.5),
    "pr_mim_mixmim": ("mixmim", "mixmim", 32, 0.25),
}
BATCH, SIDE = 16, 64


def make_method(case, **compute):
    """Return the tiny method of a case with a dtype and a residual_dtype."""
    name, family, block, thrown = CASES[case]
    method = pretrain_config().method
    method.backbone.update(BACKBONES[family])
    method.update(name=name, target="hog" if name == "fastmim" else "pixel", block_size=block, **compute)
    method.decoder.update(width=32, depth=1)
    method.partial.throw_ratio = thrown
    method.groups = 2 if name == "mixmim" else 1
    return create_method(method)


def smooth_images(key):
    """Return BATCH random images, resized from a quarter of their side."""
    small = jax.random.normal(key, (BATCH, SIDE // 4, SIDE // 4, 3))
    return jax.image.resize(small, (BATCH, SIDE, SIDE, 3), "cubic")
