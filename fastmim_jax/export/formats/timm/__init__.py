"""timm (1.0)."""

from fastmim_jax.export.formats.library import Folder, Library, Reference
from fastmim_jax.export.formats.timm.describe import describe, folder_code, load_call, read_settings
from fastmim_jax.export.formats.timm.keys import FORMATS
from fastmim_jax.export.formats.timm.reference import build_reference, reference_outputs

TIMM = Library(
    "timm",
    FORMATS,
    describe,
    lambda spec, path: [load_call(describe(spec), path)],
    Reference(build_reference, reference_outputs),
    Folder("timm", folder_code, ("architecture", "pretrained_cfg"), read_settings),
)
