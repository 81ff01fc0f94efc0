"""Hugging Face's transformers (4 and 5)."""

from fastmim_jax.export.formats.huggingface.describe import (
    describe,
    folder_code,
    preprocessor_files,
)
from fastmim_jax.export.formats.huggingface.keys import FORMATS
from fastmim_jax.export.formats.huggingface.reference import build_reference, reference_outputs
from fastmim_jax.export.formats.huggingface.settings import read_settings
from fastmim_jax.export.formats.library import Folder, Library, Reference

HUGGINGFACE = Library(
    "hf",
    FORMATS,
    describe,
    reference=Reference(build_reference, reference_outputs),
    folder=Folder("transformers", folder_code, ("model_type",), read_settings, preprocessor_files),
)
