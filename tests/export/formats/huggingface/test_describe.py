"""The config.json of transformers' models, written and read; only one test needs transformers."""

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.extras import import_transformers
from fastmim_jax.export.formats.huggingface.describe import describe
from fastmim_jax.export.formats.huggingface.settings import read_settings
from fastmim_jax.export.formats.library import MAESpec, ModelSpec
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
        (VIT, dict(classes=tuple("abcde")), "no classifier with 'pool_norm'"),
        (SWIN, dict(pooling="pool_norm"), "only with norm_pool or pool"),
        (VIT.clone(relative_positions="own"), {}, "no relative positions: type --to=official"),
        (VIT.clone(layer_scale=0.1), {}, "no layer scale"),
        (VIT.clone(positions="none"), {}, "always has position embeddings"),
        (SWIN.clone(epsilon=1e-6), {}, "epsilon 1e-05, these have 1e-06"),
        (SWIN.clone(window=4), {}, "one window size for all stages, here they are 4, 4, 4, 2"),
        (SWIN, dict(image_size=(64, 128)), "along one axis only"),
        (CMT(), {}, "no CMT such as ours: type --to=official"),
    ],
)
def test_unsupported_models_are_refused(encoder, options, message):
    with pytest.raises(UserError, match=message):
        describe(ModelSpec(encoder, **{"image_size": SIZE, **options}))


@pytest.mark.parametrize(
    ("encoder", "image_size", "decoder", "message"),
    [
        (VIT, (64, 128), {}, "square images"),
        (VIT, SIZE, dict(depth=0), "depth 0"),
        (VIT, SIZE, dict(epsilon=1e-5), "1e-06 and 1e-05 in the decoder"),
        (SWIN, SIZE, {}, "of a ViT only"),
    ],
)
def test_an_unsupported_mae_is_refused(encoder, image_size, decoder, message):
    with pytest.raises(UserError, match=message):
        describe(ModelSpec(encoder, image_size, mae=MAESpec({**DECODER, **decoder})))


def test_settings_equal_the_described_model():
    names = ["cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "kite", "lynx", "mole"]
    numbered = {str(index): names[index] for index in reversed(range(11))}  # "10" sorts before "2"
    described = describe(ModelSpec(VIT, SIZE, pooling="cls", classes=tuple(names)))
    found = read_settings({**described, "id2label": numbered})
    assert found == {"backbone": {"heads": 2}, "image_size": SIZE, "pooling": "cls", "classes": names}
    found = read_settings(describe(ModelSpec(SWIN, (64, 64))))
    assert found == {"backbone": {"heads": SWIN.heads, "window": 2}, "image_size": (64, 64)}
    assert read_settings(describe(ModelSpec(PVTv2(), (64, 96))))["image_size"] == (64, 96)
    for encoder, backbone, pooling in (
        (PVTv2(), {"heads": (1, 2, 5, 8)}, "pool"),
        (ConvNeXt(), {}, "pool_norm"),
    ):
        found = read_settings(describe(ModelSpec(encoder, SIZE, pooling=pooling, classes=("a", "b", "c"))))
        assert (found["backbone"], found["pooling"], len(found["classes"])) == (backbone, pooling, 3)


def test_settings_of_an_mae():
    described = describe(ModelSpec(VIT, SIZE, mae=MAESpec(DECODER, 0.6, False)))
    assert read_settings(described) == {
        "backbone": {"heads": 2},
        "image_size": SIZE,
        "decoder": {"heads": 4},
        "mask_ratio": 0.6,
        "normalize_target": False,
    }


def test_the_window_fits_the_images():
    assert describe(ModelSpec(SWIN.clone(window=None), (224, 224)))["window_size"] == 7
    # Shifted along both axes in every stage, or one window in the last, as in ours.
    assert describe(ModelSpec(SWIN, (128, 192)))["window_size"] == 2


@pytest.mark.slow
def test_settings_of_their_own_configs():
    """Our defaults for missing entries are transformers'."""
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason="needs the torch extra: pip install '.[torch]'")
    transformers = import_transformers()
    for kind in ("ViT", "ViTMAE", "Swin", "PvtV2", "ConvNext"):
        config = getattr(transformers, f"{kind}Config")(architectures=[f"{kind}Model"])
        assert read_settings({"model_type": config.model_type}) == read_settings(config.to_dict())
    older = transformers.PvtV2Config().to_dict() | {"image_size": {"height": 64, "width": 96}}
    assert read_settings(older)["image_size"] == (64, 96)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "beit"}, "is of a 'beit', expected one of vit, vit_mae"),
        ({"hidden_act": "gelu_new"}, "hidden_act gelu_new, expected gelu"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps 0.001"),
        ({"qkv_bias": False}, "qkv_bias False"),
    ],
)
def test_unsupported_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        read_settings({**describe(ModelSpec(VIT, SIZE)), **changes})
