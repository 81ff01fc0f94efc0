"""torchvision (0.28)."""

from pathlib import Path

from fastmim_jax.export.formats.detection import script_folder
from fastmim_jax.export.formats.library import Library, Reference
from fastmim_jax.export.formats.torchvision.describe import backbone_hint, describe
from fastmim_jax.export.formats.torchvision.keys import FORMATS
from fastmim_jax.export.formats.torchvision.reference import build_reference, reference_outputs

_CHANGES = (
    "torchvision has neither copy-paste nor layer decay, and its ViT no windows, relative positions and "
    "stochastic depth: they are left out. All new norms are LayerNorms, as in ViTDet."
)

TORCHVISION = Library(
    "torchvision",
    FORMATS,
    describe,
    backbone_hint,
    Reference(build_reference, reference_outputs),
    script_folder("torchvision", "backbone.pth", describe, Path(__file__), _CHANGES),
)
