"""torchvision (0.28)."""

from pathlib import Path

from fastmim_jax.export.formats.detection import describe_recipe, script_files
from fastmim_jax.export.formats.library import Detector, Folder, Library, ModelSpec, Reference
from fastmim_jax.export.formats.torchvision.describe import backbone_hint, describe
from fastmim_jax.export.formats.torchvision.keys import FORMATS
from fastmim_jax.export.formats.torchvision.reference import build_reference, reference_outputs

_CHANGES = (
    "torchvision has neither copy-paste nor layer decay, and its ViT no windows, relative positions and "
    "stochastic depth: they are left out. All new norms are LayerNorms, as in ViTDet."
)


def _detector_files(spec: ModelSpec) -> dict[str, str]:
    return script_files(spec, describe(spec), Path(__file__).with_name("detector.py"))


def _card(spec: ModelSpec) -> str:
    return describe_recipe(spec, _CHANGES)


def _code(description: dict, path: Path) -> str:
    lines = ("import sys", f'sys.path.insert(0, "{path}")', "from detector import build_detector")
    return "\n".join((*lines, "model = build_detector()", ""))


TORCHVISION = Library(
    "torchvision",
    FORMATS,
    describe,
    backbone_hint,
    Reference(build_reference, reference_outputs),
    Folder("torchvision", _code, detector=Detector("backbone.pth", _detector_files, _card)),
)
