"""A contact sheet of the first training batch as the network sees it, to check before a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw

from fastmim_jax.auto_schedule import fill_auto
from fastmim_jax.build import create_reader
from fastmim_jax.data.image_reader import ImageReader
from fastmim_jax.data.sources import Source, labelled
from fastmim_jax.draw.pages import (
    as_rgb,
    channels_note,
    compose,
    enlarge,
    is_own_png,
    line_height,
    panel_scale,
    save_png,
    wrap,
    write_lines,
)
from fastmim_jax.draw.style import CAPTION_FONT, GAP, NARROWEST, PAGE, TITLE, font
from fastmim_jax.errors import UserError
from fastmim_jax.paths import check_output
from fastmim_jax.stages import at_stage
from fastmim_jax.train.augmentation import device_augmentation, host_augmentation
from fastmim_jax.train.data_values import settle_values
from fastmim_jax.train.inference import run_key
from fastmim_jax.train.stage import open_training_data
from fastmim_jax.validate import check_values
from fastmim_jax.validate.training import check_data

COLUMNS, SHOWN = 6, 24
MIN_SHARE = 0.005  # smallest share of a class that is named

Shares = list[tuple[str, float]]  # classes of an image and their shares, largest first


def show_batch(config: ConfigDict, path: str | Path) -> Path:
    """Draw the first images of training after all augmentation.

    Args:
      config: of pre-training (its first stage), or of fine-tuning, with the classes as captions. The
        backbone may be unset: it is not used.
      path: PNG file.

    Returns:
      The path.

    Raises:
      UserError: the config or its data cannot be used.
    """
    check_output(path, "--show_batch=", is_result=is_own_png)
    check_values(config)
    check_data(config.data)
    if not config.data.image_size:
        raise UserError("config.data.image_size is (): type --config.data.image_size='(64, 64)' to draw")
    source = open_training_data(config)
    config = fill_auto(settle_values(config, source, log=print).config, len(source)).config
    config = at_stage(config, 0)
    batch_size, reader = config.schedule.batch_size, create_reader(config)
    count = min(SHOWN, batch_size)
    images, captions = _first_batch(config, reader, source, count)
    sheet = _sheet(reader.denormalize(images), captions, _footer(config, count, batch_size))
    return save_png(sheet, path)


def class_shares(targets: np.ndarray, classes: Sequence[str]) -> Shares:
    """Return the classes with a share of at least MIN_SHARE of an image from its targets, (K,)."""
    ranking = np.argsort(-targets, kind="stable")
    return [(classes[k], float(targets[k])) for k in ranking if targets[k] >= MIN_SHARE]


def unsmoothed(targets: np.ndarray, smoothing: float) -> np.ndarray:
    """Return (B, K) targets without their label smoothing; unchanged for smoothing = 1."""
    return targets if smoothing == 1 else (targets - smoothing / targets.shape[1]) / (1 - smoothing)


def _mix_groups(largest, count):
    """Return the largest number of groups up to `largest` that divides `count` images into even groups."""
    fitting = [groups for groups in range(1, largest + 1) if count % (2 * groups) == 0]
    return max(fitting, default=1)


def _first_batch(
    config: ConfigDict, reader: ImageReader, source: Source, count: int
) -> tuple[np.ndarray, list[Shares]]:
    """Return normalised images (B, H, W, C) of the first batch and the class shares of each."""
    if "method" in config:
        batch = _read(reader, source, config.seed, count)
        return np.asarray(reader.normalize(batch["image"], batch["flip"])), [[]] * count
    classes, augment = labelled(source).classes, config.augment
    batch = _read(reader, source, config.seed, count, **host_augmentation(augment))
    groups = _mix_groups(augment.mix_groups, count)
    augmented = device_augmentation(augment, reader.normalize, len(classes), groups)
    key = jax.random.fold_in(run_key(config.seed), 0)  # of the first step
    images, targets = jax.device_get(jax.jit(augmented)(key, batch))
    targets = unsmoothed(targets, augment.label_smoothing)
    return images, [class_shares(row, classes) for row in targets]


def _read(
    reader: ImageReader, source: Source, seed: int, count: int, **augmentation: Any
) -> dict[str, np.ndarray]:
    with reader.random_crops(source, batch_size=count, seed=seed, **augmentation) as loader:
        return next(iter(loader))


def _sheet(images, captions, footer):
    """Compose a page of COLUMNS pictures per row, with captions.

    Args:
      images: (B, H, W, C) in [0, 1].
      captions: class shares of each image, empty for none.
      footer: see `compose`.
    """
    pictures = as_rgb(images)
    scale = panel_scale(*pictures.shape[1:3])
    height, width = (round(side * scale) for side in pictures.shape[1:3])
    face = font(CAPTION_FONT)
    lines = [_caption_lines(shares, face, max(width, NARROWEST)) for shares in captions]
    below = max(map(len, lines)) * line_height(CAPTION_FONT)
    panels = [
        _panel(enlarge(picture, height, width), text, below)
        for picture, text in zip(pictures, lines, strict=True)
    ]
    columns = min(COLUMNS, len(panels))
    panels += [np.full_like(panels[0], PAGE)] * (-len(panels) % columns)
    rows = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    return compose(rows, [("", ())] * columns, footer)


def _caption_lines(shares, face, width):
    """Return a caption as one line, "cat 63 % + dog 37 %", or with lines of its own for each class."""
    names = [name for name, _ in shares]
    if len(shares) > 1:
        names = [f"{name} {100 * share:.0f} %" for name, share in shares]
    caption = " + ".join(names)
    if face.getlength(caption) <= width:
        return [caption] if caption else []
    return [line for name in names for line in wrap(name, face, width)]


def _panel(picture, lines, below):
    """Return a picture with lines of text on `below` pixels of page under it, (h, w, 3) uint8."""
    if not below:
        return picture
    height, width = picture.shape[:2]
    page = Image.new("RGB", (max(width, NARROWEST), height + GAP // 2 + below), PAGE)
    page.paste(Image.fromarray(picture))
    write_lines(ImageDraw.Draw(page), lines, 0, height + GAP // 3, font(CAPTION_FONT), TITLE)
    return np.asarray(page)


def _footer(config, shown, batch_size):
    data = config.data
    notes = [
        f"the first {shown} of a batch of {batch_size:,}, as the network sees them, "
        f"{data.image_size[0]} x {data.image_size[1]} pixels",
        f"crops of {data.crop_scale[0]:.0%} to {data.crop_scale[1]:.0%} of the area",
    ]
    if "augment" in config:
        augment = config.augment
        notes += [
            f"RandAugment {augment.magnitude:g}, random erasing {augment.random_erasing:g}, "
            f"mixup {augment.mixup:g}, cutmix {augment.cutmix:g}, "
            f"mixed here in groups of {shown // _mix_groups(augment.mix_groups, shown)}"
        ]
    return [*notes, channels_note(data.channels)]
