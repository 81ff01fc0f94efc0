"""Lines of OpenMMLab's configs for our backbones."""

from pathlib import Path

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.library import ModelSpec
from fastmim_jax.export.formats.openmmlab.describe import IMPORTS, config_lines
from fastmim_jax.models.convnext import ConvNeXt
from fastmim_jax.models.pvt_v2 import PVTv2
from fastmim_jax.models.swin import Swin
from fastmim_jax.models.vit import ViT
from fastmim_jax.models.zoo import create_model

SIZE = (64, 64)
ONES = (1, 1, 1, 1)
VIT = ViT(patch_size=16, width=8, depth=1, heads=2, positions="learned")
SWIN = Swin(width=8, depths=ONES, heads=(1, 2, 2, 4), window=2)
CONVNEXT = ConvNeXt(widths=(4, 8, 12, 16), depths=ONES)
PVT = PVTv2(widths=(4, 8, 12, 16), depths=ONES, heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 3, 3))


def lines(library, encoder, size=(224, 224), **options):
    return config_lines(library, ModelSpec(encoder, size, **options), Path("run.pth"))


def backbone_of(library, encoder, size=(224, 224), **options):
    """The arguments in the lines of a config."""
    namespace = {}
    exec("\n".join(lines(library, encoder, size, **options)), namespace)
    return namespace["backbone"]


def test_configs_name_the_model_and_its_file():
    vit = backbone_of("mmpretrain", create_model("vit_b16"))
    assert vit["arch"] == dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072)
    assert (vit["out_type"], vit["final_norm"]) == ("avg_featmap", False)
    assert vit["init_cfg"] == dict(type="Pretrained", checkpoint="run.pth", prefix="backbone.")
    vit = backbone_of("mmpretrain", create_model("vit_b16"), pooling="cls", channels=4)
    assert (vit["out_type"], vit["final_norm"], vit["in_channels"]) == ("cls_token", True, 4)
    swin = backbone_of("mmdet", create_model("swin_t"), (256, 256))
    assert (swin["type"], swin["window_size"], swin["convert_weights"]) == ("SwinTransformer", 8, False)
    assert swin["init_cfg"] == dict(type="Pretrained", checkpoint="run.pth")
    swin = backbone_of("mmpretrain", create_model("swin_t").clone(mlp_ratio=3.0))
    assert swin["stage_cfgs"] == dict(window_size=7, block_cfgs=dict(ffn_ratio=3.0))
    swin = backbone_of("mmpretrain", create_model("swin_t").clone(window=12), (192, 192))
    assert [stage["window_size"] for stage in swin["stage_cfgs"]] == [12, 12, 12, 6]
    pvt = backbone_of("mmdet", create_model("pvt_v2_b0"))
    assert (pvt["embed_dims"], pvt["num_heads"]) == (32, [1, 2, 5, 8])
    assert backbone_of("mmseg", create_model("pvt_v2_b5"))["mlp_ratio"] == 4
    assert backbone_of("mmseg", create_model("vit_l16"))["out_indices"] == (5, 11, 17, 23)
    assert backbone_of("mmpretrain", create_model("mixmim_b"))["window_size"] == [14, 14, 14, 7]
    assert IMPORTS in "\n".join(lines("mmdet", CONVNEXT, SIZE))
    assert backbone_of("mmdet", CONVNEXT)["gap_before_final_norm"] is False
    assert backbone_of("mmpretrain", CONVNEXT, pooling="pool_norm")["gap_before_final_norm"] is True


@pytest.mark.parametrize(
    "library, encoder, reason",
    [
        ("mmdet", VIT, "mmdet has no vit"),
        ("mmpretrain", VIT.clone(relative_positions="own"), "relative positions"),
        ("mmseg", VIT.clone(layer_scale=0.1), "LayerScale"),
        ("mmdet", SWIN.clone(positions="learned"), "position embeddings of a Swin"),
        ("mmdet", SWIN.clone(window=4), "here they are 4, 4, 4, 2 tokens wide"),
        ("mmseg", PVT, "has only PVT v2 with one head width|SegFormer"),
        ("mmdet", create_model("pvt_v2_b2_linear"), "linear cost"),
        ("mmseg", create_model("pvt_v2_b2"), "SegFormer"),
    ],
)
def test_unsupported_backbones_are_refused(library, encoder, reason):
    with pytest.raises(UserError, match=reason) as caught:
        lines(library, encoder, SIZE)
    assert str(caught.value).endswith("choose another library for --to=")
