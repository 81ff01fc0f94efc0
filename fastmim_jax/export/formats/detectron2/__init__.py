"""detectron2 (its main branch): the backbones of ViTDet and Swin detectors."""

from pathlib import Path

from fastmim_jax.export.formats.detectron2.describe import describe
from fastmim_jax.export.formats.detectron2.detector import WEIGHTS, card_section, detector_files
from fastmim_jax.export.formats.detectron2.keys import FORMATS
from fastmim_jax.export.formats.library import Detector, Folder, Library


def _code(description: dict, path: Path) -> str:
    return (
        "from detectron2.config import LazyConfig, instantiate\n"
        f'config = LazyConfig.load("{path}/detector.py")\nmodel = instantiate(config.model)\n'
    )


DETECTRON2 = Library(
    "detectron2",
    FORMATS,
    describe,
    folder=Folder("detectron2", _code, detector=Detector(WEIGHTS, detector_files, card_section)),
)
