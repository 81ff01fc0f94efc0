"""keras_hub (0.32) on Keras 3 with JAX; ConvNeXt is Keras's own."""

from pathlib import Path

from fastmim_jax.export.formats.detection import describe_recipe, script_files
from fastmim_jax.export.formats.keras_hub.describe import describe
from fastmim_jax.export.formats.keras_hub.keys import FORMATS
from fastmim_jax.export.formats.keras_hub.reference import build_reference, reference_outputs
from fastmim_jax.export.formats.library import Detector, Folder, Library, ModelSpec, Reference

_CHANGES = (
    "keras_hub has no Mask R-CNN: the detector is its RetinaNet with these settings, on images resized to "
    "one size, without copy-paste, layer decay and drop path."
)


def _detector_files(spec: ModelSpec) -> dict[str, str]:
    return script_files(spec, describe(spec), Path(__file__).with_name("detector.py"))


def _card(spec: ModelSpec) -> str:
    return describe_recipe(spec, _CHANGES)


def _code(description: dict, path: Path) -> str:
    lines = ("import sys", f'sys.path.insert(0, "{path}")', "from detector import build_detector")
    return "\n".join((*lines, "model = build_detector()", ""))


KERAS_HUB = Library(
    "keras_hub",
    FORMATS,
    describe,
    reference=Reference(build_reference, reference_outputs, "Keras on JAX"),
    folder=Folder("keras-hub", _code, detector=Detector("model.safetensors", _detector_files, _card)),
)
