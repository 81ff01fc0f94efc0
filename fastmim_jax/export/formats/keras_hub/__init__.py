"""keras_hub (0.32) on Keras 3 with JAX; ConvNeXt is Keras's own."""

from pathlib import Path

from fastmim_jax.export.formats.detection import script_folder
from fastmim_jax.export.formats.keras_hub.describe import describe
from fastmim_jax.export.formats.keras_hub.keys import FORMATS
from fastmim_jax.export.formats.keras_hub.reference import build_reference, reference_outputs
from fastmim_jax.export.formats.library import Library, Reference

_CHANGES = (
    "keras_hub has no Mask R-CNN: the detector is its RetinaNet with these settings, on images resized to "
    "one size, without copy-paste, layer decay and drop path."
)

KERAS_HUB = Library(
    "keras_hub",
    FORMATS,
    describe,
    reference=Reference(build_reference, reference_outputs, "Keras on JAX"),
    folder=script_folder("keras-hub", "model.safetensors", describe, Path(__file__), _CHANGES),
)
