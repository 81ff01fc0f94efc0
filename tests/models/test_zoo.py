"""Every backbone of the table, built abstractly: its parameters and its multiply-adds."""

import jax
import jax.numpy as jnp
import pytest

from fastmim_jax import create_model
from fastmim_jax.models.zoo import ZOO
from fastmim_jax.tools.flops import matrix_flops
from fastmim_jax.train.state import count_parameters
from helpers.sweeps import sweep

# Parameters of the published classifiers with 1000 classes for 224-px images, as timm counts them. The
# papers print them rounded: ViT-B 86M, Swin-B 88M, PVTv2-B2 25.4M, ConvNeXt-B 89M.
PARAMETERS = {
    "vit_ti16": 5_717_416,
    "vit_s16": 22_050_664,
    "vit_b16": 86_567_656,
    "vit_l16": 304_326_632,
    "vit_h14": 632_045_800,
    "swin_t": 28_288_354,
    "swin_s": 49_606_258,
    "swin_b": 87_768_224,
    "swin_l": 196_532_476,
    "pvt_v2_b0": 3_666_760,
    "pvt_v2_b1": 14_009_000,
    "pvt_v2_b2": 25_362_856,
    "pvt_v2_b2_linear": 22_553_512,
    "pvt_v2_b3": 45_238_696,
    "pvt_v2_b4": 62_556_072,
    "pvt_v2_b5": 81_956_008,
    "convnext_t": 28_589_128,
    "convnext_s": 50_223_688,
    "convnext_b": 88_591_464,
    "convnext_l": 197_767_336,
}
# MixMIM's, in millions, with the fixed positions of 224-px images, as its authors print them.
MIXMIM_MILLIONS = {"mixmim_b": 88.3, "mixmim_l": 197.4, "mixmim_h": 659.3}
# CMT's, in thousands, as its published code counts them for images of this size. The paper prints 9.5,
# 15.2, 25.1 and 45.7 million: its CMT-S has 1.2 million less than its code.
CMT_THOUSANDS = {
    "cmt_ti": (160, 9_492),
    "cmt_xs": (192, 15_247),
    "cmt_s": (224, 26_256),
    "cmt_b": (256, 45_715),
}

# Forward GMACs without a classifier: by hand for ViT, Swin (windows of size / 32) and MixMIM, as their
# paper prints them for ConvNeXt.
GMACS = {
    "vit_b16": {224: 17.6, 192: 12.8, 160: 8.8, 128: 5.6, 112: 4.3, 96: 3.2, 64: 1.5},
    "vit_l16": {224: 61.6, 192: 44.9, 160: 31.1, 128: 19.9},
    "swin_b": {224: 15.4, 192: 11.3, 160: 7.8, 128: 5.0},
    "swin_l": {224: 34.5, 192: 25.2, 160: 17.5, 128: 11.2},
    "mixmim_b": {224: 16.3, 384: 52.5},
    "mixmim_l": {224: 35.8, 384: 112.0},
    "mixmim_h": {224: 117.6},
    "convnext_t": {224: 4.5},
    "convnext_s": {224: 8.7},
    "convnext_b": {224: 15.4},
    "convnext_l": {224: 34.4},
}

# What `make test` counts of each family, and the sizes for which papers print multiply-adds.
ONE_OF_EACH = ("vit_b16", "swin_b", "pvt_v2_b2", "pvt_v2_b2_linear", "convnext_t")
PRINTED = {(name, 224) for name in ("vit_b16", "swin_b", "mixmim_b", "convnext_t")}


def shapes(name, side, **options):
    model = create_model(name, **options)
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return model, images, jax.eval_shape(model.init, jax.random.key(0), images)


def parameters(name, side=224):
    """Of the backbone alone."""
    return count_parameters(shapes(name, side, layers="scanned")[2]["params"])


def published_rest(name):
    """Parameters of the published classifier beside those of our backbone."""
    model = create_model(name)
    if name.startswith("vit"):  # a learned position per token, and cls; the norm before the head
        return ((224 // model.patch_size) ** 2 + 1) * model.width + (model.width + 1) * 1000
    width = 8 * model.width if name.startswith("swin") else model.widths[-1]
    return (width + 1) * 1000


def test_the_tables_cover_the_zoo():
    sized = {name for name in ZOO if name.startswith("vit")}
    assert {*PARAMETERS, *CMT_THOUSANDS, *MIXMIM_MILLIONS} | sized == set(ZOO)


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep(PARAMETERS, ONE_OF_EACH))
def test_parameters_equal_published(name):
    assert parameters(name) + published_rest(name) == PARAMETERS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep(CMT_THOUSANDS, ["cmt_s"]))
def test_parameters_of_cmt_equal_those_of_its_code(name):
    side, thousands = CMT_THOUSANDS[name]
    width = create_model(name).widths[-1]
    # A wide layer with batch norm and a linear layer instead of the last norm.
    classifier = (width + 3) * 1280 + 1281 * 1000 - 2 * width
    assert round((parameters(name, side) + classifier) / 1000) == thousands


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep(MIXMIM_MILLIONS, ["mixmim_b"]))
def test_parameters_of_mixmim_equal_published(name):
    width = create_model(name).width
    positions, head = 56 * 56 * width, (8 * width + 1) * 1000
    assert round((parameters(name) + positions + head) / 1e6, 1) == MIXMIM_MILLIONS[name]


@pytest.mark.parametrize("size", ["ti", "s", "b", "l", "h"])
def test_vits_of_a_size_differ_in_the_patch_alone(size):
    for patch in (4, 8, 14, 16):
        assert create_model(f"vit_{size}{patch}") == create_model(f"vit_{size}16", patch_size=patch)


@pytest.mark.slow
def test_the_patch_size_changes_the_first_layer_alone():
    counts = {
        patch: count_parameters(shapes(f"vit_s{patch}", 4 * patch, depth=1)[2]["params"])
        for patch in (4, 8, 14, 16)
    }
    for patch, count in counts.items():
        assert counts[16] - count == (16**2 - patch**2) * 3 * 384


SIZED = [(name, side, gmacs) for name, sides in GMACS.items() for side, gmacs in sides.items()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "gmacs"),
    sweep(SIZED, [case for case in SIZED if case[:2] in {*PRINTED, ("swin_b", 128)} - {("mixmim_b", 224)}]),
)
def test_multiply_adds_are_the_published_ones(name, side, gmacs):
    model = create_model(name, layers="scanned")
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    # Initial values have no products: one trace serves for both.
    found = matrix_flops(lambda x: model.init_with_output(jax.random.key(0), x)[0].tokens, images) / 2e9
    assert abs(found - gmacs) <= max(0.01 * gmacs, 0.05)  # 1 %, or half of the printed digit
