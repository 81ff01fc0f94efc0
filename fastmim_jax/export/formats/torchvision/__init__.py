"""torchvision (0.28)."""

from fastmim_jax.export.formats.library import Library, Reference
from fastmim_jax.export.formats.torchvision.describe import backbone_hint, describe
from fastmim_jax.export.formats.torchvision.keys import FORMATS
from fastmim_jax.export.formats.torchvision.reference import build_reference, reference_outputs

TORCHVISION = Library(
    "torchvision", FORMATS, describe, backbone_hint, Reference(build_reference, reference_outputs)
)
