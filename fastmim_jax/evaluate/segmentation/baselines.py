"""mIoU that a segmentation has to beat: of the majority class, and of a table from colours to classes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fastmim_jax.data.masks import MaskedImage, MaskError
from fastmim_jax.evaluate.segmentation.scores import scores
from fastmim_jax.io import write_json
from fastmim_jax.train.first_process import of_first_process
from fastmim_jax.train.report import BASELINES_FILE, Note, read_baselines
from fastmim_jax.train.runs import LoadedRun

MAJORITY, COLOUR = "majority class", "colour alone"
BITS = 4  # of each of red, green and blue in the table of colours


def measure_baselines(
    config: Any,
    source: Any,
    held_out: Any,
    loaded: LoadedRun | None,
    workdir: str | Path,
    log: Callable[[str], None],
) -> list[Note]:
    """Return the mIoU to beat, as lines; it is measured once and stored in baselines.json.

    Args:
      config: of segmentation; `run.baseline_images` limits the images, 0 for no lines.
      source, held_out: training and evaluation data.
      loaded: not used: nothing of it is measured.
      workdir: of the run.
      log: prints a line.
    """
    known, most = read_baselines(workdir), config.run.baseline_images
    found = dict(known[0].get("evaluation", {})) if known else {}
    if not found and most:
        log(f"measuring what to beat on up to {most:,} images: the majority class and colours alone")
        found = of_first_process(lambda: baseline_scores(source, held_out, most))
        if jax.process_index() == 0:
            write_json(Path(workdir) / BASELINES_FILE, [{"evaluation": found}], indent=2)
    images = min(most, len(held_out))
    part = "" if images == len(held_out) else f" (on {images:,} of {len(held_out):,} images)"
    texts = {
        MAJORITY: "always the largest class of training",
        COLOUR: f"the likeliest class of a pixel's colour, in {2**BITS} steps of red, green and blue",
    }
    return [Note("to beat", f"mIoU {found[name]:.2%}, {name}: {texts[name]}{part}") for name in found]


def baseline_scores(source: Any, held_out: Any, most: int) -> dict[str, float]:
    """Return {name: mIoU} on evaluation images of predictors that are fitted to training images.

    Args:
      most: training images, and evaluation images, at most; evenly spaced.
    """
    classes = len(source.class_names)
    table = np.zeros((8**BITS, classes), np.int64)
    for item in _sampled(source, most):
        labelled = item.mask >= 0
        np.add.at(table, (_colours(item.image)[labelled], item.mask[labelled]), 1)
    majority = int(table.sum(0).argmax())
    # A colour that training lacks counts as the majority class.
    predicted = np.where(table.any(1), table.argmax(1), majority)
    counts = {name: np.zeros((classes, classes), np.int64) for name in (MAJORITY, COLOUR)}
    for item in _sampled(held_out, most):
        labelled = item.mask >= 0
        mask = item.mask[labelled]
        by_colour = predicted[_colours(item.image)[labelled]]
        for name, labels in ((MAJORITY, np.full_like(mask, majority)), (COLOUR, by_colour)):
            cells = np.bincount(mask * classes + labels, minlength=classes**2)
            counts[name] += cells.reshape(classes, classes)
    found = {name: float(scores(confusion).miou) for name, confusion in counts.items()}
    return {name: miou for name, miou in found.items() if not np.isnan(miou)}


def _colours(image: np.ndarray) -> np.ndarray:
    """Return (H, W) numbers of colours, each channel with BITS bits."""
    steps = (image >> (8 - BITS)).astype(np.int32)
    return (steps[..., 0] << 2 * BITS) | (steps[..., 1] << BITS) | steps[..., 2]


def _sampled(source: Any, most: int) -> Iterator[MaskedImage]:
    """Yield at most so many images, evenly spaced; those that cannot be read are left out."""
    for index in np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).astype(int)):
        try:
            yield source.read(int(index))
        except MaskError:
            continue
