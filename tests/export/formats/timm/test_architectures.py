"""Arguments of timm's classes for our backbones, against timm's named models."""

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats import FORMATS
from fastmim_jax.export.formats.timm.architectures import BEIT, FAMILIES, VIT, find_family
from fastmim_jax.models.zoo import create_model

# {ours: the named model with the same arguments}
SAME = {
    "vit_ti16": "vit_tiny_patch16_224",
    "vit_s16": "vit_small_patch16_224",
    "vit_b16": "vit_base_patch16_224",
    "vit_l16": "vit_large_patch16_224",
    "vit_h14": "vit_huge_patch14_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
    "swin_l": "swin_large_patch4_window7_224",
    "pvt_v2_b0": "pvt_v2_b0",
    "pvt_v2_b2": "pvt_v2_b2",
    "pvt_v2_b2_linear": "pvt_v2_b2_li",
    "pvt_v2_b5": "pvt_v2_b5",
    "convnext_t": "convnext_tiny",
    "convnext_s": "convnext_small",
    "convnext_b": "convnext_base",
    "convnext_l": "convnext_large",
}


@pytest.mark.parametrize(("ours", "theirs"), SAME.items())
def test_our_variants_have_the_arguments_of_timms(ours, theirs):
    encoder = create_model(ours)
    family = find_family(encoder)
    expected = {**family.defaults, **family.architectures[theirs]}
    arguments = family.arguments(encoder, (224, 224))
    assert arguments == {name: expected[name] for name in arguments}
    assert arguments.keys() >= family.architectures[theirs].keys()


def test_the_width_is_that_of_the_last_stage():
    widths = {name: create_model(name) for name in ("vit_b16", "swin_t", "pvt_v2_b0", "convnext_t")}
    found = {name: find_family(encoder).num_features(encoder) for name, encoder in widths.items()}
    assert found == {"vit_b16": 768, "swin_t": 768, "pvt_v2_b0": 256, "convnext_t": 768}


def test_a_vit_with_relative_positions_is_a_beit():
    encoder = create_model("vit_b16", relative_positions="own", positions="none", layer_scale=0.1)
    assert find_family(create_model("vit_b16")) is VIT and find_family(encoder) is BEIT
    arguments = BEIT.arguments(encoder, (224, 224))
    expected = {**BEIT.defaults, **BEIT.architectures["beit_base_patch16_224"]}
    assert arguments == {name: expected[name] for name in arguments}
    assert BEIT.arguments(encoder, (224, 192))["img_size"] == (224, 192)


def test_every_family_has_a_format():
    for family in (*FAMILIES.values(), BEIT):
        assert FORMATS[family.format_name].library == "timm"


def test_backbones_that_timm_lacks_are_refused():
    with pytest.raises(UserError, match="timm has no CMT, only ViT, Swin, PVT v2, ConvNeXt: type --to="):
        find_family(create_model("cmt_s"))
