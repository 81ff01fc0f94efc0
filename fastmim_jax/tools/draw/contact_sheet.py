"""A contact sheet of one training batch as the network sees it, to look at before a run is begun."""

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fastmim_jax.build import create_reader
from fastmim_jax.data.sources import labelled
from fastmim_jax.stages import at_stage
from fastmim_jax.tools.draw.pages import (
    GAP,
    NARROWEST,
    PAGE,
    TITLE,
    as_rgb,
    channels_shown,
    compose,
    enlarge,
    panel_scale,
    save_png,
    wrap,
    write_lines,
)
from fastmim_jax.train.augmentation import device_augmentation, host_augmentation
from fastmim_jax.train.inference import run_key
from fastmim_jax.train.stage import open_training_data
from fastmim_jax.validate import check_values
from fastmim_jax.validate.training import check_data

COLUMNS, SHOWN = 6, 24
CAPTION = 14  # height of its letters, pixels
LEAST = 0.005  # share from which on a class is named


def show_batch(config, path):
    """Draws the first images that training would see, after everything that is done to them.

    Args:
      config: of pre-training (its first stage), or of fine-tuning, where the classes stand below. The
        backbone may be left open: nothing is computed with it.
      path: PNG file.

    Returns:
      The path written.

    Raises:
      UserError: the config or its data cannot be used.
    """
    check_values(config)
    check_data(config.data)
    config = at_stage(config, 0)
    batch_size, reader = config.schedule.batch_size, create_reader(config)
    count = min(SHOWN, batch_size)
    images, captions = _first_batch(config, reader, count)
    sheet = _sheet(reader.denormalize(images), captions, _footer(config, count, batch_size))
    return save_png(sheet, path)


def mixture(shares, classes):
    """ "cat 63 % + dog 37 %" from the share of every class, (K,); "cat" where there is one alone."""
    order = [k for k in np.argsort(-shares, kind="stable") if shares[k] >= LEAST]
    if len(order) == 1:
        return classes[order[0]]
    return " + ".join(f"{classes[k]} {shares[k]:.0%}".replace("%", " %") for k in order)


def unsmoothed(targets, smoothing):
    """(B, K) targets as they were before label smoothing; as they are where it left nothing of them."""
    return targets if smoothing == 1 else (targets - smoothing / targets.shape[1]) / (1 - smoothing)


def _groups(wanted, count):
    """As many groups of so few images as leave an even number in each, no more than the config wants."""
    fitting = [groups for groups in range(1, wanted + 1) if count % (2 * groups) == 0]
    return max(fitting, default=1)


def _first_batch(config, reader, count):
    """Return normalised images (B, H, W, C) of the first batch and the caption of each."""
    source = open_training_data(config)
    if "method" in config:
        batch = _read(reader, source, config.seed, count)
        return np.asarray(reader.normalize(batch["image"], batch["flip"])), [""] * count
    classes, augment = labelled(source).classes, config.augment
    batch = _read(reader, source, config.seed, count, **host_augmentation(augment))
    groups = _groups(augment.mix_groups, count)
    augmented = device_augmentation(augment, reader.normalize, len(classes), groups)
    key = jax.random.fold_in(run_key(config.seed), 0)  # of the first step
    images, targets = jax.device_get(jax.jit(augmented)(key, batch))
    shares = unsmoothed(targets, augment.label_smoothing)
    return images, [mixture(row, classes) for row in shares]


def _read(reader, source, seed, count, **augmentation):
    with reader.random_crops(source, batch_size=count, seed=seed, **augmentation) as loader:
        return next(iter(loader))


def _sheet(images, captions, footer):
    """A page of rows of COLUMNS pictures with their captions; images (B, H, W, C) in [0, 1]."""
    pictures = as_rgb(images)
    scale = panel_scale(*pictures.shape[1:3])
    height, width = (round(side * scale) for side in pictures.shape[1:3])
    font = ImageFont.load_default(CAPTION)
    lines = [_lines(caption, font, max(width, NARROWEST)) for caption in captions]
    below = max(map(len, lines)) * round(CAPTION * 1.3)
    panels = [
        _panel(enlarge(picture, height, width), text, below, font)
        for picture, text in zip(pictures, lines, strict=True)
    ]
    columns = min(COLUMNS, len(panels))
    panels += [np.full_like(panels[0], PAGE)] * (-len(panels) % columns)
    rows = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    return compose(rows, [("", "")] * columns, footer)


def _lines(caption, font, width):
    """The caption in one line, or else each of its classes in lines of its own."""
    if font.getlength(caption) <= width:
        return [caption] if caption else []
    return [line for part in caption.split(" + ") for line in wrap(part, font, width)]


def _panel(picture, lines, below, font):
    """A picture with lines of text on the page below it -> (h, w, 3) uint8."""
    if not below:
        return picture
    height, width = picture.shape[:2]
    page = Image.new("RGB", (max(width, NARROWEST), height + GAP // 2 + below), PAGE)
    page.paste(Image.fromarray(picture))
    write_lines(ImageDraw.Draw(page), lines, 0, height + GAP // 3, font, TITLE)
    return np.asarray(page)


def _footer(config, shown, batch_size):
    data = config.data
    parts = [
        f"the first {shown} of a batch of {batch_size:,}, as the network sees them, "
        f"{data.image_size[0]} x {data.image_size[1]} pixels",
        f"crops of {data.crop_scale[0]:.0%} to {data.crop_scale[1]:.0%} of the area",
    ]
    if "augment" in config:
        augment = config.augment
        parts += [
            f"RandAugment {augment.magnitude:g}, random erasing {augment.random_erasing:g}, "
            f"mixup {augment.mixup:g}, cutmix {augment.cutmix:g}, "
            f"mixed here in groups of {shown // _groups(augment.mix_groups, shown)}"
        ]
    return "  |  ".join(part for part in [*parts, channels_shown(data.channels)] if part)
