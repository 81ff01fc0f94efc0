"""OpenMMLab's mmpretrain (1.2), mmdetection (3.3) and mmsegmentation (1.2)."""

from functools import partial
from pathlib import Path

from fastmim_jax.export.formats.library import Detector, Folder, Library
from fastmim_jax.export.formats.openmmlab import dense_keys, keys
from fastmim_jax.export.formats.openmmlab.describe import config_lines
from fastmim_jax.export.formats.openmmlab.detector import WEIGHTS, card_section, detector_files


def _code(description: dict, path: Path) -> str:
    return (
        "from mmengine.config import Config\nfrom mmengine.runner import Runner\n"
        f'runner = Runner.from_cfg(Config.fromfile("{path}/detector.py"))\n'
    )


# The loaders of mmengine look for the arrays under this name, or at the top level.
_WRAPPER = "state_dict"
MMPRETRAIN = Library(
    "mmpretrain", keys.FORMATS, file_hints=partial(config_lines, "mmpretrain"), wrapper=_WRAPPER
)
MMDET = Library(
    "mmdet",
    dense_keys.MMDET,
    file_hints=partial(config_lines, "mmdet"),
    folder=Folder("mmdet", _code, detector=Detector(WEIGHTS, detector_files, card_section)),
    wrapper=_WRAPPER,
)
MMSEG = Library("mmseg", dense_keys.MMSEG, file_hints=partial(config_lines, "mmseg"), wrapper=_WRAPPER)
