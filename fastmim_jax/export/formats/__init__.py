"""All libraries and formats of files that are read and written; a new library is one line in the table."""

from fastmim_jax.export.formats.detectron2 import DETECTRON2
from fastmim_jax.export.formats.huggingface import HUGGINGFACE
from fastmim_jax.export.formats.keras_hub import KERAS_HUB
from fastmim_jax.export.formats.library import Library
from fastmim_jax.export.formats.official import OFFICIAL
from fastmim_jax.export.formats.openmmlab import MMDET, MMPRETRAIN, MMSEG
from fastmim_jax.export.formats.rules import Format
from fastmim_jax.export.formats.timm import TIMM
from fastmim_jax.export.formats.torchvision import TORCHVISION

# Of formats with equal names, such as Swin in mmpretrain and mmdet, the first one is detected.
LIBRARIES: dict[str, Library] = {
    library.name: library
    for library in (
        *(OFFICIAL, TIMM, HUGGINGFACE, TORCHVISION, MMPRETRAIN, MMDET, MMSEG),
        *(DETECTRON2, KERAS_HUB),
    )
}
FORMATS: dict[str, Format] = {fmt.name: fmt for library in LIBRARIES.values() for fmt in library.formats}
