"""The CPU time of each part of reading: storage, decoding, crop, augmentation, copy and transfer."""

import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from fastmim_jax.data.augment import random_crop_box, resize_crop
from fastmim_jax.data.canvas import write_canvas
from fastmim_jax.data.crops import RandomOfPosition
from fastmim_jax.data.decode import DecodeError, decode, read_record
from fastmim_jax.data.planes import resize_crop_planes
from fastmim_jax.data.sources import Source
from fastmim_jax.train.stage import TrainStage

RECORDS = 256  # measured, at most
SECONDS = 4.0  # of measuring, at most
TRANSFERS = 3


def read_costs(
    stage: TrainStage, source: Source, batch: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> dict[str, float]:
    """Measure the parts of reading one image on records of a source, in one thread.

    Args:
      stage: of training.
      batch: this process's rows of a batch of the loader, for the transfer.
      options: of `make_loader` for the training of the stage.

    Returns:
      {"read_ms", "decode_ms", "crop_ms", "augment_ms", "copy_ms", "transfer_ms"}: CPU milliseconds per
      image that is trained on, and {"reading_images_per_second_and_core"}, which follows from their sum.
      Decoding counts once for all views of an image. Transfer is the CPU's part of it, by all threads.
    """
    times, counts = _parts(stage, source, options)
    views, crop_views = options.get("views_per_image", 1), options.get("views_per_crop", 1)
    per_image = {"read": views, "decode": views, "crop": crop_views, "augment": crop_views, "copy": 1}
    costs = {part: times[part] / max(counts, 1) / shared for part, shared in per_image.items()}
    costs["transfer"] = _transfer(stage, batch) / len(batch["image"])
    figures = {f"{part}_ms": seconds * 1e3 for part, seconds in costs.items()}
    return {**figures, "reading_images_per_second_and_core": 1 / sum(costs.values())}


def _parts(stage: TrainStage, source: Source, options: Mapping[str, Any]) -> tuple[dict[str, float], int]:
    """-> ({part: CPU seconds of all images}, number of images)."""
    reader, random = stage.reader, RandomOfPosition(0)
    times: dict[str, float] = defaultdict(float)
    crop, batch = (np.empty(reader.training_shape, reader.pixel_dtype) for _ in range(2))
    augment, count, start = options.get("augment"), 0, time.monotonic()

    @contextmanager
    def timed(part):
        began = time.thread_time()
        yield
        times[part] += time.thread_time() - began

    order = np.random.default_rng(0).permutation(len(source))  # as in training, not as stored
    for index in np.resize(order, RECORDS).tolist():
        if count and time.monotonic() - start > SECONDS:
            break
        try:
            with timed("read"):
                image: Any = read_record(source, index)
            with timed("decode"):
                image = decode(image, reader.channels, reader.rules) if reader.layout == "rgb" else image
        except DecodeError:
            continue
        rng = random.at(index)
        with timed("crop"):
            height, width = image.shape[:2]
            box = random_crop_box(rng, height, width, reader.crop_scale, reader.crop_ratio)
            if reader.canvas is not None:
                write_canvas(image, crop)
            elif reader.layout == "rgb":
                resize_crop(image, box, reader.image_size, crop)
            else:
                resize_crop_planes(image, box, crop)
        with timed("augment"):
            crop = crop if augment is None else augment(crop, rng)
        with timed("copy"):
            batch[...] = crop
        count += 1
    return times, count


def _transfer(stage: TrainStage, batch: Mapping[str, np.ndarray]) -> float:
    """-> CPU seconds of this process to send its rows of a batch to its devices."""
    size = stage.plan.batch_size
    jax.block_until_ready(stage.to_devices(batch, size))
    began = time.process_time()
    for _ in range(TRANSFERS):
        jax.block_until_ready(stage.to_devices(batch, size))
    return (time.process_time() - began) / TRANSFERS
