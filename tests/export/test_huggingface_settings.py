"""The config.json of transformers' models, written and read; only one test needs transformers."""

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.extras import import_transformers
from fastmim_jax.export.formats.huggingface import describe as peer
from fastmim_jax.export.formats.huggingface.keys import settings
from fastmim_jax.models.cmt import CMT
from fastmim_jax.models.convnext import ConvNeXt
from fastmim_jax.models.pvt_v2 import PVTv2
from fastmim_jax.models.swin import Swin
from fastmim_jax.models.vit import ViT

SIZE = (64, 64)
DECODER = dict(width=16, depth=2, heads=4, mlp_ratio=2.0)
VIT = ViT(patch_size=16, width=32, depth=3, heads=2, positions="learned")
SWIN = Swin(width=16, depths=(1, 2, 1, 2), heads=(1, 2, 2, 4), window=2)


@pytest.mark.parametrize(
    ("encoder", "options", "message"),
    [
        (VIT, dict(pooling="pool_norm"), "no classifier with 'pool_norm', only with cls: type --to=timm"),
        (VIT, dict(classes=5), "no classifier with 'pool_norm'"),
        (SWIN, dict(pooling="pool_norm"), "only with norm_pool or pool"),
        (VIT.clone(relative_positions="own"), {}, "no relative positions: type --to=official"),
        (VIT.clone(layer_scale=0.1), {}, "no layer scale"),
        (VIT.clone(positions="none"), {}, "has positions always"),
        (SWIN.clone(epsilon=1e-6), {}, "epsilon 1e-05, these have 1e-06"),
        (SWIN.clone(window=4), {}, "one window for all stages, here they are 4, 4, 4, 2"),
        (SWIN, dict(image_size=(64, 128)), "along one axis only"),
        (CMT(), {}, "no CMT such as ours: type --to=official"),
    ],
)
def test_what_they_have_not_is_refused(encoder, options, message):
    with pytest.raises(UserError, match=message):
        peer.describe(encoder, **{"image_size": SIZE, **options})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(image_size=(64, 128)), "square images"),
        (dict(decoder=dict(DECODER, depth=0)), "depth 0"),
        (dict(decoder=dict(DECODER, epsilon=1e-5)), "1e-06 and 1e-05 in the decoder"),
        (dict(encoder=SWIN), "of a ViT only"),
    ],
)
def test_what_their_mae_is_not_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        peer.describe_mae(**{**dict(encoder=VIT, decoder=DECODER, image_size=SIZE), **changes})


def test_settings_are_what_was_described():
    names = ["cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "kite", "lynx", "mole"]
    numbered = {str(index): names[index] for index in reversed(range(11))}  # "10" sorts before "2"
    described = peer.describe(VIT, SIZE, pooling="cls", classes=11)
    told = settings({**described, "id2label": numbered})
    assert told == {"backbone": {"heads": 2}, "image_size": SIZE, "pooling": "cls", "classes": names}
    told = settings(peer.describe(SWIN, (64, 64)))
    assert told == {"backbone": {"heads": SWIN.heads, "window": 2}, "image_size": (64, 64)}
    assert settings(peer.describe(PVTv2(), (64, 96)))["image_size"] == (64, 96)
    for encoder, backbone, pooling in (
        (PVTv2(), {"heads": (1, 2, 5, 8)}, "pool"),
        (ConvNeXt(), {}, "pool_norm"),
    ):
        told = settings(peer.describe(encoder, SIZE, pooling=pooling, classes=3))
        assert (told["backbone"], told["pooling"], len(told["classes"])) == (backbone, pooling, 3)


def test_settings_of_an_mae():
    described = peer.describe_mae(VIT, DECODER, SIZE, mask_ratio=0.6, normalize_target=False)
    assert settings(described) == {
        "backbone": {"heads": 2},
        "image_size": SIZE,
        "decoder": {"heads": 4},
        "mask_ratio": 0.6,
        "normalize_target": False,
    }


def test_the_window_is_that_of_the_images():
    assert peer.describe(SWIN.clone(window=None), (224, 224))["window_size"] == 7
    # Shifted along both axes in every stage, or one window in the last, as ours.
    assert peer.describe(SWIN, (128, 192))["window_size"] == 2


def test_settings_of_their_own_configs():
    """Our defaults for what files leave out are theirs."""
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason="needs the torch extra: pip install '.[torch]'")
    transformers = import_transformers()
    for kind in ("ViT", "ViTMAE", "Swin", "PvtV2", "ConvNext"):
        config = getattr(transformers, f"{kind}Config")(architectures=[f"{kind}Model"])
        assert settings({"model_type": config.model_type}) == settings(config.to_dict())
    older = transformers.PvtV2Config().to_dict() | {"image_size": {"height": 64, "width": 96}}
    assert settings(older)["image_size"] == (64, 96)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "beit"}, "is of a 'beit', expected one of vit, vit_mae"),
        ({"hidden_act": "gelu_new"}, "hidden_act gelu_new, and no backbone here has another than gelu"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps 0.001"),
        ({"qkv_bias": False}, "qkv_bias False"),
    ],
)
def test_settings_that_ours_cannot_have_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        settings({**peer.describe(VIT, SIZE), **changes})
