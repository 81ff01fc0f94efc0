"""timm's descriptions of our models; nothing here needs PyTorch."""

import json

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.library import ModelSpec
from fastmim_jax.export.formats.timm.describe import describe
from fastmim_jax.models.zoo import create_model


def test_descriptions_name_the_nearest_model_and_only_what_differs():
    def named(encoder, size, **options):
        described = describe(ModelSpec(encoder, size, **options))
        assert json.loads(json.dumps(described)) == described
        return described["architecture"], described["model_args"]

    small = create_model("vit_s16", width=96, heads=3, layer_scale=0.1)
    assert named(small, (224, 224)) == (
        "vit_tiny_patch16_224",
        {"embed_dim": 96, "init_values": 0.1},
    )
    assert named(create_model("vit_b8"), (224, 224)) == ("vit_base_patch8_224", {})
    assert named(create_model("vit_h14"), (224, 224)) == ("vit_huge_patch14_224", {})
    assert named(create_model("swin_b"), (384, 384)) == ("swin_base_patch4_window12_384", {})
    assert named(create_model("swin_b"), (128, 128)) == (
        "swin_base_patch4_window7_224",
        {"img_size": 128, "window_size": 4},
    )
    for size in ("b0", "b1", "b3", "b4", "b5"):
        assert named(create_model(f"pvt_v2_{size}"), (224, 224)) == (f"pvt_v2_{size}", {})
    assert named(create_model("pvt_v2_b2_linear"), (192, 192)) == ("pvt_v2_b2_li", {})
    options = dict(pooling="pool_norm", channels=1, classes=("a", "b", "c"))
    for size, theirs in (("s", "small"), ("b", "base"), ("l", "large")):
        found = named(create_model(f"convnext_{size}"), (224, 224), **options)
        assert found == (f"convnext_{theirs}", {"in_chans": 1})


@pytest.mark.parametrize(
    ("encoder", "options", "message"),
    [
        (
            create_model("cmt_s"),
            {},
            "timm has no CMT, only ViT, Swin, PVT v2, ConvNeXt: type --to=official",
        ),
        (create_model("mixmim_b"), {}, "timm has no MixMIMEncoder"),
        (
            create_model("swin_t", positions="learned"),
            {},
            "has no position embeddings, this one has learned ones: type --to",
        ),
        (
            create_model("swin_t"),
            {"pooling": "pool_norm"},
            "Swin has no pooling 'pool_norm'; choose from: pool, norm",
        ),
        (
            create_model("pvt_v2_b2"),
            {"pooling": "norm_pool"},
            "or type --to=official, or fine-tune with --con",
        ),
        (
            create_model("convnext_t"),
            {"pooling": "norm_pool"},
            "ConvNeXt has no pooling 'norm_pool'",
        ),
        (create_model("vit_b16"), {"pooling": "wide_pool"}, "choose from: cls, pool_norm, pool"),
    ],
)
def test_unsupported_models_are_refused(encoder, options, message):
    with pytest.raises(UserError, match=message):
        describe(ModelSpec(encoder, (224, 224), **options))
