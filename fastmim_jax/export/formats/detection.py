"""Published recipes of detectors on COCO, by the family of their backbone."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from fastmim_jax.data.device import channel_statistics
from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.library import Detector, Folder, ModelSpec

COCO_IMAGES = 118_000  # of train2017, as ViTDet counts iterations


class Recipe(NamedTuple):
    """Settings of a published detector.

    name: of the detector and its schedule. source: where it was published, with its result.
    learning_rate, weight_decay: of AdamW; norms and tables of positions do not decay.
    epochs: of train2017. milestones: fractions of the training after which the rate is divided by ten.
    warmup: iterations. batch: images per update.
    drop_path: probability of the last block.
    layer_decay: factor of the learning rate from block to block; 1 for none.
    scales: range of the size of the image, of a crop of 1024 pixels; () for a short side of 480 to 800.
    copy_paste: whether objects of other images are pasted.
    """

    name: str
    source: str
    learning_rate: float
    weight_decay: float
    epochs: int
    milestones: tuple[float, ...]
    warmup: int
    batch: int
    drop_path: float
    layer_decay: float = 1.0
    scales: tuple[float, ...] = ()
    copy_paste: bool = False

    @property
    def steps(self) -> int:
        """Iterations of the training."""
        return self.epochs * COCO_IMAGES // self.batch


RECIPES = {
    "swin": Recipe(
        "Mask R-CNN, 3x",
        "FastMIM (github.com/ggjy/FastMIM.pytorch, mmdet-v2.23/configs/swin): Swin-B, fine-tuned on "
        "ImageNet before, 52.0 box AP and 46.0 mask AP; it names 4 images a GPU, and 8 GPUs are assumed",
        learning_rate=6e-5,
        weight_decay=0.05,
        epochs=36,
        milestones=(27 / 36, 33 / 36),
        warmup=1000,
        batch=32,
        drop_path=0.2,
        scales=(0.1, 2.0),
        copy_paste=True,
    ),
    "vit": Recipe(
        "Mask R-CNN with ViTDet, 100 epochs",
        "ViTDet (arXiv 2203.16527; detectron2, projects/ViTDet): ViT-B from MAE, 51.6 box AP and 45.9 "
        "mask AP",
        learning_rate=1e-4,
        weight_decay=0.1,
        epochs=100,
        milestones=(8 / 9, 26 / 27),
        warmup=250,
        batch=64,
        drop_path=0.1,
        layer_decay=0.7,
        scales=(0.1, 2.0),
    ),
    "convnext": Recipe(
        "Mask R-CNN, 3x",
        "ConvNeXt (arXiv 2201.03545; mmdetection, configs/convnext): ConvNeXt-T, 46.2 box AP and 41.7 "
        "mask AP",
        learning_rate=1e-4,
        weight_decay=0.05,
        epochs=36,
        milestones=(27 / 36, 33 / 36),
        warmup=1000,
        batch=16,
        drop_path=0.4,
        layer_decay=0.95,
    ),
    "pvt_v2": Recipe(
        "RetinaNet, 1x",
        "PVT v2 (arXiv 2106.13797; mmdetection, configs/pvt): PVTv2-B2, 44.6 box AP",
        learning_rate=1e-4,
        weight_decay=1e-4,
        epochs=12,
        milestones=(8 / 12, 11 / 12),
        warmup=500,
        batch=16,
        drop_path=0.1,
    ),
}


def pixel_statistics(spec: ModelSpec) -> tuple[list[float], list[float]]:
    """Return (mean, std) of the model's pixels, of images of 8 bits in RGB.

    Raises:
      UserError: the model takes other images.
    """
    if spec.channels != 3 or abs(spec.rescaling[0] - 1 / 255) > 1e-9 or spec.rescaling[1]:
        seen = f"{spec.channels} channels" if spec.channels != 3 else "another range of values"
        raise UserError(
            f"a detector's recipe reads RGB images of 8 bits, and this backbone takes images of {seen}: "
            "type a destination that ends in .safetensors for its arrays alone"
        )
    mean, std = channel_statistics(3)
    return [round(255 * x, 3) for x in spec.mean or mean], [round(255 * x, 3) for x in spec.std or std]


def describe_recipe(spec: ModelSpec, changes: str = "") -> str:
    """Return the section of a model card on the detector's recipe.

    changes: sentences on what the library's detector does in another way than the published one.
    """
    recipe, (height, width) = RECIPES[spec.encoder.family], spec.image_size
    augmentation = "a short side of 480 to 800 pixels"
    if recipe.scales:
        low, high = recipe.scales
        augmentation = f"a random size of {low:g} to {high:g} and a crop of 1024 pixels"
    augmentation += ", simple copy-paste" * recipe.copy_paste
    decay = f", layer decay {recipe.layer_decay:g}" * (recipe.layer_decay != 1)
    milestones = ", ".join(f"{fraction:.1%}" for fraction in recipe.milestones)
    lines = [
        "## Detector",
        "",
        f"`detector.py` is {recipe.name}, by the recipe of {recipe.source}.",
        f"AdamW, learning rate {recipe.learning_rate:g}{decay}, weight decay {recipe.weight_decay:g}, drop "
        f"path {recipe.drop_path:g}, batches of {recipe.batch} images, {recipe.epochs} epochs, a tenth of "
        f"the rate after {milestones} of them, {recipe.warmup:,} iterations of warm-up; {augmentation}.",
        *([changes] if changes else []),
        f"Its tables of positions are those of {height} x {width} pixels; `fastmim convert "
        "--image_size=...` resamples them.",
    ]
    return "\n".join(lines)


def refuse(library: str, reason: str) -> NoReturn:
    """Raise the UserError of a backbone that a library does not have."""
    raise UserError(f"{library} {reason}: choose another library, such as --to=timm")


def script_folder(
    name: str, weights: str, describe: Callable[[ModelSpec], dict[str, Any]], script: Path, changes: str
) -> Folder:
    """Return the folder of a library whose detector is a script with `build_detector`.

    Args:
      name: see `Folder`. weights: see `Detector`.
      describe: the library's description of a backbone.
      script: beside which detector.py lies.
      changes: see `describe_recipe`.
    """

    def files(spec: ModelSpec) -> dict[str, str]:
        return script_files(spec, describe(spec), script.with_name("detector.py"))

    def code(description: dict, path: Path) -> str:
        lines = ("import sys", f'sys.path.insert(0, "{path}")', "from detector import build_detector")
        return "\n".join((*lines, "model = build_detector()", ""))

    return Folder(name, code, detector=Detector(weights, files, partial(describe_recipe, changes=changes)))


def script_files(spec: ModelSpec, description: dict[str, Any], script: Path) -> dict[str, str]:
    """Return {"detector.py": a script, "backbone.json": its notes} of a folder.

    The notes are {"backbone": the description, "mean" and "std" of pixels of 8 bits, "recipe": Recipe}.

    Raises:
      UserError: the backbone takes no RGB images.
    """
    mean, std = pixel_statistics(spec)
    recipe = RECIPES[spec.encoder.family]._asdict()
    notes = {"backbone": description, "mean": mean, "std": std, "recipe": recipe}
    return {"detector.py": script.read_text(), "backbone.json": json.dumps(notes, indent=2) + "\n"}
