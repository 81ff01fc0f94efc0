"""Names and shapes of detectron2's ViT and Swin, as its source has them."""

import numpy as np
import pytest

from fastmim_jax.export.formats.detectron2.describe import describe
from fastmim_jax.export.formats.detectron2.keys import SWIN_PREFIX, VIT_PREFIX
from fastmim_jax.export.formats.library import ModelSpec
from fastmim_jax.export.formats.names import to_theirs
from fastmim_jax.models.zoo import create_model

# modeling/backbone/vit.py and swin.py: {name in the backbone: shape}.
D, HIDDEN = 8, 32
VIT_BLOCK = {
    "norm1.weight": (D,),
    "norm1.bias": (D,),
    "attn.qkv.weight": (3 * D, D),
    "attn.qkv.bias": (3 * D,),
    "attn.proj.weight": (D, D),
    "attn.proj.bias": (D,),
    "norm2.weight": (D,),
    "norm2.bias": (D,),
    "mlp.fc1.weight": (HIDDEN, D),
    "mlp.fc1.bias": (HIDDEN,),
    "mlp.fc2.weight": (D, HIDDEN),
    "mlp.fc2.bias": (D,),
}
VIT = {
    "pos_embed": (1, 5, D),
    "patch_embed.proj.weight": (D, 3, 16, 16),
    "patch_embed.proj.bias": (D,),
    **{f"blocks.0.{name}": shape for name, shape in VIT_BLOCK.items()},
}
UNUSED = {"cls_token": (1, 1, D), "norm.weight": (D,), "norm.bias": (D,)}  # MAE's, which its ViT lacks
SWIN_FIRST = {
    "patch_embed.proj.weight": (D, 3, 4, 4),
    "patch_embed.norm.weight": (D,),
    **{f"layers.0.blocks.0.{name}": shape for name, shape in VIT_BLOCK.items()},
    "layers.0.blocks.0.attn.relative_position_bias_table": (9, 2),
    "layers.0.downsample.reduction.weight": (2 * D, 4 * D),
    "layers.0.downsample.norm.weight": (4 * D,),
    "norm3.weight": (8 * D,),
    "norm3.bias": (8 * D,),
}


def state_of(encoder, fmt, size):
    import jax

    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, 3), "float32"))
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes["params"])
    return to_theirs({"params": {"encoder": params}}, fmt)


def test_names_of_vit():
    encoder = create_model("vit_b16").clone(width=D, depth=1, heads=2, positions="learned")
    state = state_of(encoder, "detectron2_vit", (32, 32))
    expected = {f"{VIT_PREFIX}.{name}": shape for name, shape in (VIT | UNUSED).items()}
    assert {name: x.shape for name, x in state.items()} == expected


def test_names_of_swin():
    encoder = create_model("swin_t").clone(width=D, depths=(1, 1, 1, 1), heads=(2, 2, 2, 2), window=2)
    state = state_of(encoder, "detectron2_swin", (64, 64))
    shapes = {name.removeprefix(f"{SWIN_PREFIX}."): x.shape for name, x in state.items()}
    assert SWIN_FIRST.items() <= shapes.items()


@pytest.mark.parametrize(("depth", "windowed"), [(12, [0, 1, 3, 4, 6, 7, 9, 10]), (4, []), (5, [0, 2])])
def test_four_blocks_have_no_windows(depth, windowed):
    spec = ModelSpec(create_model("vit_b16").clone(depth=depth), (224, 224))
    assert describe(spec)["arguments"]["window_block_indexes"] == windowed
