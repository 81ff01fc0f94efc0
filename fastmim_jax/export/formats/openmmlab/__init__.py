"""OpenMMLab's mmpretrain (1.2), mmdetection (3.3) and mmsegmentation (1.2)."""

from functools import partial

from fastmim_jax.export.formats.library import Library
from fastmim_jax.export.formats.openmmlab import dense_keys, keys
from fastmim_jax.export.formats.openmmlab.describe import config_lines

MMPRETRAIN = Library("mmpretrain", keys.FORMATS, file_hints=partial(config_lines, "mmpretrain"))
MMDET = Library("mmdet", dense_keys.MMDET, file_hints=partial(config_lines, "mmdet"))
MMSEG = Library("mmseg", dense_keys.MMSEG, file_hints=partial(config_lines, "mmseg"))
