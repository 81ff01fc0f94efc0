"""`fastmim evaluate` and `fastmim predict` of a checkpoint of segmentation."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from fastmim_jax.build import decode_rules
from fastmim_jax.data.decode import read_image
from fastmim_jax.data.limits import DecodeError, DecodeRules
from fastmim_jax.data.masks import IGNORE, MaskedImage, MaskError, mask_evaluation_split
from fastmim_jax.data.sources import evaluation_split, open_source
from fastmim_jax.draw.overlays import overlay, save_label_map
from fastmim_jax.draw.pages import save_png
from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.inputs import compare_inputs
from fastmim_jax.evaluate.segmentation.report import describe, summarize
from fastmim_jax.evaluate.segmentation.segment_images import evaluate_segmentation, segment_images
from fastmim_jax.io import write_json, write_text
from fastmim_jax.paths import to_text
from fastmim_jax.train.segment import open_evaluation, open_split
from fastmim_jax.train.segmenter_stage import open_segmenter


def evaluate(
    path: str | Path,
    images: str | None = None,
    *,
    step: int | None = None,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    log: Callable[[str], None] = print,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Measure the mIoU of a checkpoint of segmentation.

    Args:
      path, step, settings: see `train.runs.load_run`.
      images: images with masks of the classes of the checkpoint; their val or test split where they have
        one. None for the evaluation data of the run.
      out: a JSON file for the summary, or None.
      log: prints a line.
      progress: called with the number of images done.

    Returns:
      The summary, see `report.summarize`.

    Raises:
      UserError: no checkpoint of segmentation, no masks, or no image that can be read.
    """
    loaded, stage = open_segmenter(path, step, settings=settings)
    data = stage.config.data
    if images is None:
        source = open_evaluation(data, stage.classes, other="--images=DIR")
    else:
        split = mask_evaluation_split(images, data.kind) or "train"
        source = open_split(data, images, split, classes=stage.classes)
    compare_inputs(loaded, source)
    log(f"{loaded.path} on {source!r}")
    result = evaluate_segmentation(stage, stage.variables, source, progress=progress)
    summary = summarize(result, source, stage.classes)
    for line in describe(summary):
        log(line)
    if out and jax.process_index() == 0:
        write_json(out, summary)
        log(f"scores: {out}")
    return summary


class UnmaskedImages:
    """Images of any source, with masks of IGNORE alone."""

    def __init__(self, source: Any, rules: DecodeRules):
        self._source, self._rules = source, rules

    def __len__(self) -> int:
        return len(self._source)

    def __repr__(self) -> str:
        return repr(self._source)

    def read(self, index: int) -> MaskedImage:
        """Return image `index`.

        Raises:
          MaskError: it cannot be read.
        """
        name = self._source.name(index)
        try:
            image = read_image(self._source, index, 3, self._rules)
        except DecodeError as error:
            raise MaskError("image", name, error.reason) from error
        return MaskedImage(image, np.full(image.shape[:2], IGNORE, np.int32), name)


def predict(
    path: str | Path,
    images: str,
    *,
    step: int | None = None,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    log: Callable[[str], None] = print,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write the classes of all pixels: NAME.png (label map), NAME_overlay.png, and classes.txt.

    Args:
      images: an image file, a folder or a data set. out: the folder to write. The others: see `evaluate`.

    Returns:
      The number of images.

    Raises:
      UserError: see `evaluate`; no folder to write.
    """
    if not out:
        raise UserError("a segmentation writes a picture per image: type --out=DIR with a folder for them")
    if Path(out).is_file():
        raise UserError(f"{out} is a file, expected a folder for the pictures: type another --out")
    loaded, stage = open_segmenter(path, step, settings=settings)
    source = open_source(images, evaluation_split(images) or "train")
    compare_inputs(loaded, source)
    masks, folder, classes = (
        UnmaskedImages(source, decode_rules(stage.config.data)),
        Path(out),
        stage.classes,
    )
    stems = _stems(source)
    records = range(jax.process_index(), len(source), jax.process_count())
    written, bad = 0, 0
    for done, found in enumerate(segment_images(stage, stage.variables, masks, records), 1):
        if isinstance(found, MaskError):
            bad += 1
            log(f"{to_text(found.name)} cannot be read: {found.detail}")
        elif found is not None:
            stem = folder / stems[found.record]
            save_label_map(stem.with_name(f"{stem.name}.png"), found.labels, len(classes))
            picture = overlay(found.image.image, found.labels, len(classes))
            save_png(Image.fromarray(picture), stem.with_name(f"{stem.name}_overlay.png"))
            written += 1
        if progress:
            progress(min(done * jax.process_count(), len(source)))
    if jax.process_index() == 0:
        write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))
    log(f"label maps of {written:,} image{'s' * (written != 1)} by {loaded.path}: {folder}")
    return written


def _stems(source: Any) -> list[str]:
    """Return a name for the files of each record; one that several have gets its number."""
    stems = [Path(to_text(source.name(index))).stem for index in range(len(source))]
    counts = Counter(stems)
    return [f"{stem}_{index}" if counts[stem] > 1 else stem for index, stem in enumerate(stems)]
