"""From images to a model's input: crops, normalisation, and the workers that decode."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fastmim_jax.data import device
from fastmim_jax.data.canvas import canvas_shape
from fastmim_jax.data.decode import DEFAULT_RULES
from fastmim_jax.data.device_crop import resize_crops, resize_crops_planes
from fastmim_jax.data.eval_batches import EvalBatches, make_eval_batches
from fastmim_jax.data.limits import DecodeRules
from fastmim_jax.data.loader import Loader, make_loader
from fastmim_jax.data.planes import crop_shape


@dataclasses.dataclass(frozen=True)
class ImageReader:
    """Read batches of crops from a source, and normalise them on the device.

    Attributes:
      image_size: (H, W) of a crop.
      channels: C.
      mean, std: (C,), of pixels in [0, 1].
      crop_scale, crop_ratio: of random crops, see `augment.random_crop_box`.
      eval_resize: short side before a centre crop, pixels; None for the usual one.
      workers: processes that decode in an evaluation.
      threads: threads that decode, per process.
      layout: of training crops on their way to the devices, "rgb" or "yuv420", see `planes`. All other
        crops are RGB.
      canvas: (H, W) that holds every training image: the devices crop; None: the host crops.
      rules: of decoding.
      max_worker_restarts: see `make_loader`.
    """

    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    eval_resize: int | None
    workers: int
    threads: int
    layout: str = "rgb"
    canvas: tuple[int, int] | None = None
    rules: DecodeRules = DEFAULT_RULES
    max_worker_restarts: int = 3

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (*self.image_size, self.channels)

    @property
    def pixel_dtype(self) -> np.dtype:
        """Dtype of crops on their way to the devices."""
        return self.rules.pixel_dtype

    @property
    def training_shape(self) -> tuple[int, ...]:
        """Shape of a training image for the devices.

        `image_shape`, or (3 H / 2, W) for "yuv420"; of the canvas where the devices crop.
        """
        if self.canvas is not None:
            return canvas_shape(self.layout, self.canvas, self.channels)
        return crop_shape(self.layout, self.image_size, self.channels)

    def crop_training(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Return a batch with crops for `normalize_training`; "box" is used up where the devices crop."""
        batch = dict(batch)
        if self.canvas is not None:
            crop = resize_crops_planes if self.layout == "yuv420" else resize_crops
            batch["image"] = crop(batch["image"], batch.pop("box"), self.image_size)
        return batch

    def normalize_training(self, images: device.AnyArray, flip: device.AnyArray) -> jax.Array:
        """Return (B, H, W, C) float32 of training crops, RGB or packed planes, see `normalize`."""
        if self.layout == "yuv420":
            return device.normalize_planes(images, flip, mean=self.mean, std=self.std)
        return self.normalize(images, flip)

    def normalize(self, images: device.AnyArray, flip: device.AnyArray | None) -> jax.Array:
        """Return (B, H, W, C) float32 of crops, mirrored where `flip` (B,) is True, see `device`."""
        return device.normalize(images, flip, mean=self.mean, std=self.std)

    def denormalize(self, images: device.AnyArray) -> device.AnyArray:
        """Return pixels in [0, 1] of normalised images."""
        return images * np.asarray(self.std, np.float32) + np.asarray(self.mean, np.float32)

    def random_crops(self, source: Any, *, batch_size: int, seed: int, **options: Any) -> Loader:
        """Stream batches of random crops for ever, RGB by default; options: see `loader.make_loader`."""
        return make_loader(
            source,
            image_size=self.image_size,
            channels=self.channels,
            batch_size=batch_size,
            seed=seed,
            threads=self.threads,
            max_worker_restarts=self.max_worker_restarts,
            scale=self.crop_scale,
            ratio=self.crop_ratio,
            rules=self.rules,
            **options,
        )

    def center_crops(
        self, source: Any, *, batch_size: int, rows: np.ndarray, records: np.ndarray | None = None
    ) -> EvalBatches:
        """Return one pass over a source with centre crops; arguments: see `make_eval_batches`."""
        return make_eval_batches(
            source,
            image_size=self.image_size,
            channels=self.channels,
            batch_size=batch_size,
            resize=self.eval_resize,
            rows=rows,
            workers=self.workers,
            threads=self.threads,
            max_worker_restarts=self.max_worker_restarts,
            records=records,
            rules=self.rules,
        )
