"""The published repositories of FastMIM, MAE, MixMIM and SimMIM, whose files have no description."""

from fastmim_jax.export.formats.library import Library
from fastmim_jax.export.formats.official.keys import FORMATS

OFFICIAL = Library("official", FORMATS)
