"""Names and shapes against OpenMMLab's source; reshaped arrays against its arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from scipy.special import erf

from fastmim_jax import create_method
from fastmim_jax.config import pretrain_config
from fastmim_jax.errors import FormatMismatch
from fastmim_jax.export.formats import FORMATS
from fastmim_jax.export.formats.names import to_ours, to_theirs
from fastmim_jax.models.convnext import ConvNeXt
from fastmim_jax.models.heads import Classifier
from fastmim_jax.models.mixmim import MixMIMEncoder
from fastmim_jax.models.pvt_v2 import ConvMLP, PVTv2, SpatialReductionAttention
from fastmim_jax.models.swin import PatchMerging, Swin
from fastmim_jax.models.vit import ViT

SIZE = (64, 64)
ONES = (1, 1, 1, 1)
VIT = ViT(patch_size=16, width=8, depth=1, heads=2, positions="learned")
SWIN = Swin(width=8, depths=ONES, heads=(1, 2, 2, 4), window=2)
CONVNEXT = ConvNeXt(widths=(4, 8, 12, 16), depths=ONES)
PVT = PVTv2(widths=(4, 8, 12, 16), depths=ONES, heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 3, 3))


def names(prefix, text):
    """The words of a text with a prefix; "*" stands for weight and bias."""
    words = (prefix + word for word in text.split())
    return {word.replace("*", part) for word in words for part in ("weight", "bias")}


def of_stages(pattern, text):
    return set().union(*(names(pattern.format(stage), text) for stage in range(4)))


# All of models with one block, or with one in each of four stages.
FFN = "ffn.layers.0.0.* ffn.layers.1.*"
VIT_LAYER = f"ln1.* attn.qkv.* attn.proj.* ln2.* {FFN}"
PATCHES = "patch_embed.projection.*"
TABLE = "relative_position_bias_table {0}relative_position_index"
MERGING = "norm.* reduction.weight"
NO_FOURTH = names("stages.3.downsample.", MERGING)
VIT_NAMES = names("", f"cls_token pos_embed {PATCHES} ln1.*") | names("layers.0.", VIT_LAYER)
SWIN_BLOCK = (
    f"norm1.* attn.w_msa.qkv.* attn.w_msa.proj.* attn.w_msa.{TABLE.format('attn.w_msa.')} norm2.* {FFN}"
)
SWIN_NAMES = (
    names("", f"{PATCHES} patch_embed.norm.* norm3.*")
    | of_stages("stages.{}.blocks.0.", SWIN_BLOCK)
    | of_stages("stages.{}.downsample.", MERGING) - NO_FOURTH
)
MIXMIM_NAMES = (
    names("", f"{PATCHES} patch_embed.norm.* norm.* absolute_pos_embed")
    | of_stages("layers.{}.blocks.0.", f"{VIT_LAYER} attn.{TABLE.format('attn.')}")
    | of_stages("layers.{}.downsample.", MERGING) - names("layers.3.downsample.", MERGING)
)
CONVNEXT_NAMES = (
    of_stages("downsample_layers.{}.", "0.* 1.*")
    | of_stages("stages.{}.0.", "depthwise_conv.* norm.* pointwise_conv1.* pointwise_conv2.* gamma")
    | names("", "norm3.*")
)
DECODER = names("", "mask_token decoder_embed.* decoder_pos_embed ln1.* decoder_pred.*")
DECODER |= names("decoder_blocks.0.", VIT_LAYER)
# PyTorch's own attention, and 1 x 1 convolutions with a dropout and an activation between them.
PVT_LAYER = (
    "norm1.* attn.attn.in_proj_weight attn.attn.in_proj_bias attn.attn.out_proj.* attn.sr.* attn.norm.* "
    "norm2.* ffn.layers.0.* ffn.layers.1.* ffn.layers.4.*"
)
PVT_NAMES = (
    of_stages("layers.{}.", "0.projection.* 0.norm.* 2.*") | of_stages("layers.{}.1.0.", PVT_LAYER)
) - names("layers.3.1.0.", "attn.sr.* attn.norm.*")  # whose keys are all tokens
DENSE_VIT_LAYER = f"ln1.* attn.attn.in_proj_weight attn.attn.in_proj_bias attn.attn.out_proj.* ln2.* {FFN}"
DENSE_VIT_NAMES = VIT_NAMES - names("layers.0.", VIT_LAYER) | names("layers.0.", DENSE_VIT_LAYER)
HEAD = {"head.fc.weight", "head.fc.bias"}


def inside(name, parts):
    return {f"{name}.{part}" for part in parts}


def pretraining(kind, block_size, **backbone):
    """A tiny method."""
    config = pretrain_config().method
    config.update(name=kind, target="pixel", block_size=block_size, dtype="float32")
    config.update(normalize_target=kind != "simmim")
    config.backbone.update(backbone)
    config.decoder.update(width=8, heads=2, depth=1)
    return create_method(config)


SMALL = dict(width=8, depths=ONES, heads=(1, 2, 2, 4))
MAE = pretraining("mae", 16, name="vit_b16", width=8, depth=1, heads=2)
SIMMIM = pretraining("simmim", 32, name="swin_t", window=2, **SMALL)
MIXMIM = pretraining("mixmim", 32, name="mixmim_b", windows=(2, 2, 2, 2), **SMALL)
# {format: (module, names)}; a bare backbone has no head.
EXPECTED = {
    "mmpretrain_mae": (MAE, inside("backbone", VIT_NAMES) | inside("neck", DECODER)),
    "mmpretrain_simmim_swin": (
        SIMMIM,
        inside("backbone", SWIN_NAMES | {"mask_token"}) | {"neck.decoder.0.weight", "neck.decoder.0.bias"},
    ),
    "mmpretrain_mixmim": (MIXMIM, inside("backbone", MIXMIM_NAMES) | inside("neck", DECODER)),
    "mmpretrain_mixmim_classifier": (
        Classifier(MixMIMEncoder(**SMALL, windows=(2, 2, 2, 2)), 3),
        inside("backbone", MIXMIM_NAMES) | HEAD,
    ),
    "mmpretrain_vit": (
        Classifier(VIT, 3, "pool_norm"),
        inside("backbone", VIT_NAMES - names("", "ln1.*") | names("", "ln2.*")) | HEAD,
    ),
    "mmpretrain_swin": (Classifier(SWIN, 3, "pool"), inside("backbone", SWIN_NAMES) | HEAD),
    "mmpretrain_convnext": (
        Classifier(CONVNEXT, 3, "pool_norm"),
        inside("backbone", CONVNEXT_NAMES) | HEAD,
    ),
    "mmdet_swin": (SWIN, inside("backbone", SWIN_NAMES)),
    "mmdet_convnext": (CONVNEXT, inside("backbone", CONVNEXT_NAMES)),
    "mmdet_pvt_v2": (PVT, PVT_NAMES),
    "mmseg_swin": (SWIN, inside("backbone", SWIN_NAMES)),
    "mmseg_convnext": (CONVNEXT, inside("backbone", CONVNEXT_NAMES)),
    "mmseg_pvt_v2": (PVT, PVT_NAMES),
    "mmseg_vit": (VIT, DENSE_VIT_NAMES),
}


def variables_of(module):
    """Random variables with the tables of fixed positions; a bare backbone is under "encoder"."""
    rngs = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    shapes = jax.eval_shape(module.init, rngs, np.zeros((1, *SIZE, 3), np.float32))["params"]
    shapes = shapes if hasattr(module, "encoder") or "decoder" in shapes else {"encoder": shapes}
    shapes = {path: x.shape for path, x in flatten_dict(shapes, sep="/").items()}
    encoder = getattr(module, "encoder", module)
    if encoder.positions == "fixed":
        strides = {"encoder": encoder.embed_stride, "decoder": encoder.stride}
        for part in strides.keys() & {path.split("/")[0] for path in shapes}:
            grid = (SIZE[0] // strides[part],) * 2
            shapes[f"{part}/position/pos_embed"] = (*grid, 8)
            if "encoder/cls_token" in shapes:
                shapes[f"{part}/position/pos_embed_cls"] = (1, 8)
    rng = np.random.default_rng(0)
    arrays = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    return {"params": unflatten_dict(arrays, sep="/")}


def state_of(variables, name):
    state = to_theirs(variables, name)
    for buffers in FORMATS[name].buffers:
        state |= buffers(state, SIZE)
    return state


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_names_are_those_of_the_source_and_a_round_trip_is_exact(name):
    module, expected = EXPECTED[name]
    variables = variables_of(module)
    state = state_of(variables, name)
    assert set(state) == expected
    jax.tree.map(np.testing.assert_array_equal, to_ours(state, name), variables)


def test_every_format_is_tested():
    libraries = ("mmpretrain", "mmdet", "mmseg")
    assert {name for name, fmt in FORMATS.items() if fmt.library in libraries} == set(EXPECTED)


@pytest.mark.slow
def test_shapes_are_those_of_the_source():
    state = state_of(variables_of(PVT), "mmdet_pvt_v2")
    assert state["layers.1.1.0.attn.attn.in_proj_weight"].shape == (24, 8)
    assert state["layers.1.1.0.attn.attn.in_proj_bias"].shape == (24,)
    assert state["layers.1.1.0.attn.sr.weight"].shape == (8, 8, 4, 4)
    assert state["layers.1.1.0.ffn.layers.0.weight"].shape == (16, 8, 1, 1)
    assert state["layers.1.1.0.ffn.layers.1.weight"].shape == (16, 1, 3, 3)
    assert state["layers.1.1.0.ffn.layers.4.weight"].shape == (8, 16, 1, 1)
    state = state_of(variables_of(MAE), "mmpretrain_mae")
    assert state["backbone.pos_embed"].shape == state["neck.decoder_pos_embed"].shape == (1, 17, 8)
    assert state["neck.decoder_pred.weight"].shape == (16 * 16 * 3, 8)
    state = state_of(variables_of(SIMMIM), "mmpretrain_simmim_swin")
    assert state["backbone.mask_token"].shape == (1, 1, 8)
    assert state["neck.decoder.0.weight"].shape == (32 * 32 * 3, 64, 1, 1)
    state = state_of(variables_of(MIXMIM), "mmpretrain_mixmim")
    assert state["backbone.absolute_pos_embed"].shape == (1, 256, 8)
    assert state["neck.decoder_pos_embed"].shape == (1, 4, 8)


def test_layer_scale_and_the_other_head_class_are_read():
    variables = variables_of(Classifier(VIT.clone(layer_scale=0.1), 3, "cls"))
    state = to_theirs(variables, "mmpretrain_vit")
    assert {"backbone.layers.0.attn.gamma1.weight", "backbone.layers.0.ffn.gamma2.weight"} <= set(state)
    other = {name.replace("head.fc", "head.layers.head"): x for name, x in state.items()}
    jax.tree.map(np.testing.assert_array_equal, to_ours(other, "mmpretrain_vit"), variables)


def test_relative_position_indices_are_sums_of_two_strides():
    index = state_of(variables_of(SWIN), "mmdet_swin")[
        "backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"
    ]
    rows, columns = np.divmod(np.arange(4), 2)
    steps = 3 * rows + columns  # of windows of 2 x 2, whose table has 3 x 3 entries
    np.testing.assert_array_equal(index, (steps[:, None] + steps[None, :])[:, ::-1])


def layer_norm(x, scale, bias, epsilon=1e-5):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return x * scale + bias


def unfolded(x, side):
    """(B, h, w, C) -> (B, h / side, w / side, C * side^2) in the order of PyTorch's Unfold."""
    batch, rows, columns, width = x.shape
    out = np.empty((batch, rows // side, columns // side, width * side**2), x.dtype)
    for channel in range(width):
        for row in range(side):
            for column in range(side):
                index = (channel * side + row) * side + column
                out[..., index] = x[:, row::side, column::side, channel]
    return out


# Both sides sum ten to a hundred float32 products of values around one, in different orders.
TOLERANCE = 1e-5  # of the largest absolute value


def assert_close(found, expected):
    atol = TOLERANCE * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mmpretrain_swin", "mmdet_swin"])
def test_patches_are_merged_in_the_order_of_unfold(name):
    variables = variables_of(SWIN)
    state = to_theirs(variables, name)
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 16)).astype(np.float32)
    theirs = {part: state[f"backbone.stages.1.downsample.{part}"] for part in ("norm.weight", "norm.bias")}
    y = layer_norm(unfolded(x, 2), theirs["norm.weight"], theirs["norm.bias"])
    y = y @ state["backbone.stages.1.downsample.reduction.weight"].T
    params = variables["params"]["encoder"]["downsamples_1"]
    assert_close(PatchMerging().apply({"params": params}, jnp.asarray(x)), y)


def multihead(query, key_value, state, name, heads):
    """PyTorch's attention: (B, N, D) and (B, M, D) -> (B, N, D)."""
    weight, bias = state[f"{name}.in_proj_weight"], state[f"{name}.in_proj_bias"]
    sources, width = (query, key_value, key_value), len(weight) // 3
    parts = []
    for part, x in enumerate(sources):
        rows = slice(part * width, (part + 1) * width)
        x = x @ weight[rows].T + bias[rows]
        parts.append(x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2))
    scores = parts[0] @ parts[1].swapaxes(2, 3) / np.sqrt(width // heads)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    x = (weights / weights.sum(-1, keepdims=True)) @ parts[2]
    x = x.swapaxes(1, 2).reshape(query.shape)
    return x @ state[f"{name}.out_proj.weight"].T + state[f"{name}.out_proj.bias"]


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("stage, reduction", [(2, 2), (3, 1)])
def test_attention_of_pvt_is_that_of_joined_projections(stage, reduction):
    variables = variables_of(PVT)
    state, name = to_theirs(variables, "mmdet_pvt_v2"), f"layers.{stage}.1.0.attn"
    width, heads = PVT.widths[stage], PVT.heads[stage]
    x = np.random.default_rng(1).normal(size=(2, 4, 4, width)).astype(np.float32)
    coarse = x
    if reduction > 1:
        kernel = state[f"{name}.sr.weight"].reshape(width, -1)  # (out, channel * row * column)
        coarse = unfolded(x, reduction) @ kernel.T + state[f"{name}.sr.bias"]
        coarse = layer_norm(coarse, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"])
    y = multihead(x.reshape(2, 16, width), coarse.reshape(2, -1, width), state, f"{name}.attn", heads)
    params = variables["params"]["encoder"][f"stages_{stage}"]["blocks"]["0"]["attn"]
    found = SpatialReductionAttention(heads, reduction).apply({"params": params}, jnp.asarray(x))
    assert_close(found.reshape(y.shape), y)


@pytest.mark.slow
def test_mlp_of_pvt_is_that_of_convolutions():
    variables = variables_of(PVT)
    state, name = to_theirs(variables, "mmdet_pvt_v2"), "layers.1.1.0.ffn.layers"
    x = np.random.default_rng(1).normal(size=(2, 3, 5, 8)).astype(np.float32)
    y = np.einsum("oi,bhwi->bhwo", state[f"{name}.0.weight"][:, :, 0, 0], x) + state[f"{name}.0.bias"]
    padded = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = sum(
        state[f"{name}.1.weight"][:, 0, row, column] * padded[:, row : row + 3, column : column + 5]
        for row in range(3)
        for column in range(3)
    )
    y = y + state[f"{name}.1.bias"]
    y = y * (1 + erf(y / np.sqrt(2))) / 2
    y = np.einsum("oi,bhwi->bhwo", state[f"{name}.4.weight"][:, :, 0, 0], y) + state[f"{name}.4.bias"]
    params = variables["params"]["encoder"]["stages_1"]["blocks"]["0"]["mlp"]
    found = ConvMLP(2).apply({"params": params}, jnp.asarray(x))
    assert_close(found, y)


def test_positions_that_a_detector_cannot_load_are_refused():
    variables = variables_of(SWIN.clone(positions="learned"))
    with pytest.raises(FormatMismatch, match="encoder/position/pos_embed"):
        to_theirs(variables, "mmdet_swin")
    assert "backbone.absolute_pos_embed" in to_theirs(variables, "mmpretrain_swin")
