"""Keras's models for our backbones: their arguments, and refusals."""

import re
from importlib.util import find_spec

import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export import extras
from fastmim_jax.export.formats.keras_hub import keys
from fastmim_jax.export.formats.keras_hub.describe import describe
from fastmim_jax.export.formats.keras_hub.reference import build_reference, reference_outputs
from fastmim_jax.export.formats.library import ModelSpec
from fastmim_jax.models.zoo import create_model


def spec_of(name, size=(224, 224), **options):
    return ModelSpec(create_model(name).clone(**options), size)


def test_arguments_are_those_of_the_classes():
    vit = describe(spec_of("vit_b16", (224, 320), class_token=False))
    assert vit["class"] == "ViTBackbone" and vit["arguments"]["image_shape"] == [224, 320, 3]
    assert (vit["arguments"]["mlp_dim"], vit["arguments"]["use_class_token"]) == (3072, False)
    swin = describe(spec_of("swin_b"))
    assert swin["class"] == "SwinTransformerBackbone" and swin["arguments"]["window_size"] == 7
    assert describe(spec_of("convnext_t"))["class"] == "ConvNeXtTiny"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (spec_of("pvt_v2_b2"), "keras_hub has no pvt_v2: choose another library"),
        (spec_of("vit_b16", layer_scale=0.1), "no ViT with LayerScale"),
        (spec_of("vit_b16", class_tokens=8), "no ViT with several class tokens"),
        (spec_of("vit_b16", positions="none"), "without absolute ones"),
        (
            spec_of("swin_b", (224, 448), window=7),
            "shifts no window that spans the grid along one axis only",
        ),
        (spec_of("swin_b", positions="learned"), "no Swin with absolute position embeddings"),
        (spec_of("convnext_t", depths=(1, 1, 1, 1)), "depths .1, 1, 1, 1., only ConvNeXtTiny, "),
        (spec_of("vit_b16")._replace(classes=("cat",)), "type --encoder_only"),
    ],
)
def test_backbones_that_keras_lacks_are_refused(spec, message):
    with pytest.raises(UserError, match=message):
        describe(spec)


def test_queries_keys_and_values_are_split_and_joined():
    kernel = np.arange(48, dtype=np.float32).reshape(4, 12)
    parts = keys.JOINED.to_theirs(kernel)
    assert [part.shape for part in parts] == [(4, 4)] * 3
    np.testing.assert_array_equal(keys.JOINED.to_ours(*parts), kernel)


@pytest.mark.skipif(bool(find_spec("keras_hub")), reason="keras_hub is installed")
def test_a_missing_keras_hub_is_told():
    with pytest.raises(UserError, match=re.escape("type pip install keras-hub")):
        extras.import_keras_hub()
    with pytest.raises(UserError, match="needs keras_hub"):
        build_reference(describe(spec_of("vit_b16")))


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("keras_hub"), reason="needs keras_hub: pip install keras-hub")
def test_the_reference_has_all_layers():
    pytest.importorskip("keras_hub")
    from fastmim_jax.export.formats.keras_hub import detector

    spec = spec_of("vit_b16", (32, 32), width=24, depth=2, heads=3)
    model = build_reference(describe(spec))
    outputs = reference_outputs(model, np.zeros((1, 32, 32, 3), np.float32))
    assert {name: x.shape for name, x in outputs.items()} == {
        "block 1": (1, 2, 2, 24),
        "block 2": (1, 2, 2, 24),
        "cls": (1, 24),
    }
    with pytest.raises(UserError, match="not a state of keras_hub's ViTBackbone: other variables"):
        build_reference(describe(spec), {})
    assert detector.PATCH == 16
