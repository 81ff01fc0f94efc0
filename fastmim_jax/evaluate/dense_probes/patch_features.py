"""Frozen patch features of batches of images, in full on every device, and colours to compare them with."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.data.eval_batches import EvalBatches
from fastmim_jax.data.loader import Loader
from fastmim_jax.data.masks.base import MaskedImages
from fastmim_jax.data.masks.batches import evaluation_pairs, training_pairs
from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.backbone import BackboneStage, layer_outputs
from fastmim_jax.models.base import Backbone
from fastmim_jax.train import sharding
from fastmim_jax.train.agreement import begin_unit
from fastmim_jax.train.compilation import OnMesh
from fastmim_jax.train.inference import compile_eval, round_up

COLORS = "colours"  # a layer of mean colours, for a baseline
BATCH_SIZE = 16  # of training, as published
NAMES = ("image", "mask", "index")


class DenseBatch(NamedTuple):
    """A batch on one device of this process, the same on every process.

    features: {layer: (B, h, w, D)}. mask: (B, H, W). records: (B,) indices, -1 for a row of padding.
    """

    features: dict[str, jax.Array]
    mask: jax.Array
    records: jax.Array


class PatchFeatures:
    """The features of some layers of a backbone, and COLORS, for images with masks.

    Attributes:
      stage: of the backbone; another one of the same model may take its place.
      layers: their names, COLORS at last.
      batch_size: of training, and of evaluation.
      grids: (variables, (B, H, W, 3) uint8 images) -> {layer: (B, h, w, D) float32}.
    """

    def __init__(self, stage: BackboneStage, layers: tuple[str, ...], batch_size: int = BATCH_SIZE):
        """Raises UserError: a backbone for other images than RGB of 8 bits."""
        if stage.reader.channels != 3 or stage.reader.pixel_dtype != np.uint8:
            raise UserError(
                f"the backbone reads {stage.reader.channels} channels of {stage.reader.pixel_dtype}, "
                "expected RGB of 8 bits, as the images of dense probes have: probe a backbone for photos"
            )
        self.stage, self.layers = stage, (*layers, COLORS)
        self.batch_size = round_up(batch_size, stage.device_count)
        self.grids = partial(
            layer_grids,
            model=stage.model,
            normalize=stage.reader.normalize,
            numbers={layer: stage.layers.index(layer) for layer in layers},
        )
        self._program: OnMesh = compile_eval(
            "the features of patches",
            partial(_features, grids=self.grids),
            stage.variables,
            stage.mesh,
            sharding.batch_sharding(stage.mesh),
        )

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of images and masks."""
        return self.stage.reader.image_size

    def training(self, masks: MaskedImages, records: np.ndarray, seed: int, **options: Any) -> Loader:
        """Return an endless stream of augmented batches; options: see `training_pairs`."""
        return training_pairs(masks, records=records, seed=seed, **self._options(), **options)

    def evaluation(self, masks: MaskedImages, records: np.ndarray) -> EvalBatches:
        """Return one pass over images."""
        return evaluation_pairs(masks, records=records, **self._options())

    def stream(self, batches: Loader, count: int | None = None) -> Iterator[DenseBatch]:
        """Yield the features of `count` batches, None for all, and close their loader."""
        with batches:
            for number, batch in enumerate(batches):
                if number == count:
                    return
                begin_unit()
                arrays = self.stage.to_devices(batch, self.batch_size, NAMES)
                found = self._program(self.stage.variables, arrays)
                # Every device has all rows: each process trains its own heads, on one of its devices.
                features, mask, records = jax.tree.map(lambda array: array.addressable_data(0), found)
                yield DenseBatch(features, mask, records)

    def _options(self) -> dict[str, Any]:
        reader = self.stage.reader
        return dict(
            size=self.size,
            batch_size=self.batch_size,
            rows=self.stage.rows(self.batch_size),
            workers=reader.workers,
            threads=reader.threads,
            max_worker_restarts=reader.max_worker_restarts,
        )


def choose_layers(names: tuple[str, ...], chosen: tuple[str, ...] = (), most: int = 4) -> tuple[str, ...]:
    """Return the layers to probe: those chosen, or `most` at equal distances, the last one among them.

    Raises:
      UserError: no layer of this name.
    """
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise UserError(f"no layer '{unknown[0]}'; choose from: {', '.join(names)}")
    count = min(most, len(names))
    return tuple(chosen) or tuple(
        names[round(len(names) * part / count) - 1] for part in range(1, count + 1)
    )


def _features(
    variables: dict, batch: dict[str, jax.Array], *, grids: Callable
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    return grids(variables, batch["image"]), batch["mask"], batch["index"]


def layer_grids(
    variables: dict,
    images: jax.Array,
    *,
    model: Backbone,
    normalize: Callable,
    numbers: dict[str, int],
) -> dict[str, jax.Array]:
    """Return {layer: (B, h, w, D) float32} of (B, H, W, 3) pixels, COLORS in the cells of the finest layer.

    numbers: {layer: its number among the outputs of the model}.
    """
    outputs = layer_outputs(variables, images, model, normalize)
    grids = {layer: jnp.asarray(outputs[number].tokens) for layer, number in numbers.items()}
    finest = max(grids.values(), key=lambda grid: grid.shape[1])
    found = {layer: grid.astype(jnp.float32) for layer, grid in grids.items()}
    return {**found, COLORS: mean_colors(images, finest.shape[1:3])}


def mean_colors(images: jax.Array, grid: tuple[int, ...]) -> jax.Array:
    """Return (B, h, w, 9) of (B, H, W, 3) pixels: means in each cell of the colours and their products."""
    batch, height, width, _ = images.shape
    pixels = images.astype(jnp.float32) / 255
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    products = [red * red, green * green, blue * blue, red * green, red * blue, green * blue]
    values = jnp.concatenate([pixels, jnp.stack(products, -1)], -1)
    cells = values.reshape(batch, grid[0], height // grid[0], grid[1], width // grid[1], values.shape[-1])
    return cells.mean((2, 4))
