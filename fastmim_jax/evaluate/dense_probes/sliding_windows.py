"""Evaluation of dense probes with windows that slide over images, at the size of each image.

As published for linear segmentation (DINOv3, arXiv 2508.10104): the short side of an image is resized to
the crop, windows are two thirds of the crop apart, and the outputs of heads are averaged in overlaps.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.data.masks.base import IGNORE, MaskedImages
from fastmim_jax.data.masks.problems import MaskError
from fastmim_jax.evaluate.dense_probes.patch_features import PatchFeatures
from fastmim_jax.evaluate.dense_probes.tasks import Task, add_counts, constant_counts
from fastmim_jax.evaluate.dense_probes.whole_images import LinearProbe, Predicted, ProbeCounts
from fastmim_jax.evaluate.segmentation.window_batches import (
    WindowedImage,
    map_windows,
    of_all_processes,
    own_records,
)
from fastmim_jax.evaluate.segmentation.windows import (
    WindowGrid,
    join_windows,
    pad_mask,
    plan_windows,
    window_grid,
)
from fastmim_jax.train import sharding
from fastmim_jax.train.inference import compile_eval


class SlidingWindows:
    """An `Evaluation` on windows of the size of the crop; every process has images of its own.

    Args:
      features: of the backbone.
      short_side: to which images are resized, in pixels; None: that of the crop.
      stride: (rows, columns) from window to window, in pixels; None: two thirds of the crop.
    """

    def __init__(
        self,
        features: PatchFeatures,
        short_side: int | None = None,
        stride: tuple[int, int] | None = None,
    ):
        self._size, self._short_side = features.size, short_side or min(features.size)
        self._plan_of = partial(plan_windows, crop=self._size, short_side=self._short_side, stride=stride)
        stage, devices = features.stage, sharding.local_devices(features.stage.mesh)
        self._threads = stage.reader.threads
        self._batch_size = -(-features.batch_size // stage.device_count) * len(devices)
        self._mesh = sharding.make_mesh(devices=devices)
        self._variables = sharding.localize(stage.variables, self._mesh)
        batch = sharding.batch_sharding(self._mesh)
        self._grids = compile_eval(
            "the features of windows", features.grids, self._variables, self._mesh, batch
        )

    def describe(self) -> str:
        """See `Evaluation`."""
        height, width = self._size
        return (
            f"windows of {height} x {width} pixels over images whose short side is {self._short_side}, "
            "at the size of each image"
        )

    def count(
        self, masks: MaskedImages, records: np.ndarray, probe: LinearProbe, constant: float = 0
    ) -> ProbeCounts:
        """See `Evaluation`."""
        task, layers = probe.heads.task, list(probe.states)
        totals: list[Any] = [None] * (len(layers) + 1)  # of the layers and of the constant prediction
        for found in self._outputs(masks, *own_records(records), probe, layers):
            mask = pad_mask(found.image.mask, IGNORE)
            counts = [_count(task, window_grid(found.outputs[layer], found.plan), mask) for layer in layers]
            counts.append(constant_counts(task, constant, mask[None]))
            totals = [add_counts(*pair) for pair in zip(totals, counts, strict=True)]
        parts = of_all_processes("windows", [None if x is None else x.tolist() for x in totals])
        parts = [part for part in parts if part[0] is not None]  # of processes with images
        *of_layers, of_constant = [
            np.sum([np.asarray(x) for x in of_one], 0) for of_one in zip(*parts, strict=True)
        ]
        return ProbeCounts(dict(zip(layers, of_layers, strict=True)), of_constant)

    def predict(
        self, masks: MaskedImages, records: np.ndarray, probe: LinearProbe, layer: str, rate: int
    ) -> Iterator[Predicted]:
        """See `Evaluation`."""
        for found in self._outputs(masks, records, len(records), probe, [layer]):
            grid = window_grid(found.outputs[layer][..., rate, :], found.plan)
            height, width = found.plan.image
            predicted = np.asarray(join_windows(grid, probe.heads.task.predict))[:height, :width]
            yield Predicted(found.image.image, found.image.mask, predicted)

    def _outputs(
        self,
        masks: MaskedImages,
        records: Sequence[int] | np.ndarray,
        rounds: int,
        probe: LinearProbe,
        layers: list[str],
    ) -> Iterator[WindowedImage]:
        """Yield records whose outputs are {layer: (n, h, w, R, K)}."""

        def outputs(windows: np.ndarray) -> dict[str, jax.Array]:
            on_devices = jax.device_put(windows, sharding.batch_sharding(self._mesh))
            grids = self._grids(self._variables, on_devices)
            # Every device has all rows; the heads are on one.
            return {
                layer: probe.heads.outputs(probe.states[layer], grids[layer].addressable_data(0))
                for layer in layers
            }

        found = map_windows(
            *(outputs, masks, records, self._plan_of),
            batch_size=self._batch_size,
            threads=self._threads,
            rounds=rounds,
        )
        for image in found:
            if isinstance(image, MaskError):
                raise image
            if image is not None:
                yield image


@partial(jax.jit, static_argnums=0)
def _count(task: Task, grid: WindowGrid, mask: jax.Array) -> jax.Array:
    """Return (R, ...) counts of R heads; grid: outputs (r, c, h, w, R, K)."""

    def one(outputs: Any) -> jax.Array:
        predicted = join_windows(grid._replace(outputs=outputs), task.predict)
        return task.count(predicted[None], mask[None])

    return jax.lax.map(one, jnp.moveaxis(jnp.asarray(grid.outputs), -2, 0))
