"""A segmentation model on the devices of one process: logits of crops, for evaluation and prediction."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fastmim_jax.build import create_reader, create_segmenter
from fastmim_jax.errors import UserError
from fastmim_jax.models.dense.segmenter import Segmenter
from fastmim_jax.saved_config import kind_of
from fastmim_jax.train import sharding
from fastmim_jax.train.compilation import OnMesh
from fastmim_jax.train.inference import InferenceStage, compile_eval, round_up
from fastmim_jax.train.runs import LoadedRun, load_run, read_classes
from fastmim_jax.validate import check_kernel

CROPS = 4  # at once on each device, in a command


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SegmenterStage(InferenceStage):
    """A segmentation model on the devices of this process alone: every process has images of its own.

    Attributes:
      config: of its run.
      classes: their names.
      logits: (variables, (B, H, W, 3) uint8 crops) -> (B, h, w, K) float32.
    """

    config: Any
    model: Segmenter
    classes: tuple[str, ...]
    logits: OnMesh


def make_segmenter_stage(
    config: Any,
    model: Segmenter,
    classes: Sequence[str],
    batch_size: int,
    devices: Sequence[jax.Device],
    variables: Any = None,
) -> SegmenterStage:
    """Return the stage of a segmentation model; nothing is compiled yet.

    Args:
      config: of its run.
      batch_size: crops at once, over these devices; rounded up to a multiple of their number.
      devices: of this process.
      variables: of the model on these devices, or None where they are given to `logits` later.
    """
    mesh, reader = sharding.make_mesh(devices=devices), create_reader(config)

    def logits(variables, images):
        return model.apply(variables, reader.normalize(images, None)).main

    key = jax.eval_shape(lambda: jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, *reader.image_shape), jnp.float32)
    shapes = variables or jax.eval_shape(model.init, key, images)
    replicated = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding.replicated(mesh)),
        shapes,
    )
    return SegmenterStage(
        config=config,
        mesh=mesh,
        model=model,
        variables=variables or replicated,
        reader=reader,
        eval_batch_size=round_up(batch_size, len(devices)),
        classes=tuple(classes),
        logits=compile_eval("the segmentation", logits, replicated, mesh, sharding.batch_sharding(mesh)),
    )


def open_segmenter(
    path: str | Path,
    step: int | None = None,
    *,
    batch_size: int | None = None,
    settings: Sequence[str] = (),
) -> tuple[LoadedRun, SegmenterStage]:
    """Open a checkpoint of segmentation.

    Args:
      path, step, settings: see `runs.load_run`.
      batch_size: crops at once; None: CROPS on each device.

    Raises:
      UserError: no checkpoint there, or one of another kind.
    """
    loaded = load_run(path, step, settings=settings)
    config = loaded.config
    if kind_of(config) != "segment":
        raise UserError(
            f"{loaded.workdir} is no segmentation: expected the --workdir of a `fastmim segment`"
        )
    check_kernel("model", config.model, jax.devices()[0].platform, loaded.workdir)
    classes = read_classes(loaded.workdir)
    devices, model = jax.local_devices(), create_segmenter(config.model, len(classes))
    size = batch_size or CROPS * len(devices)
    stage = make_segmenter_stage(config, model, classes, size, devices)
    return loaded, dataclasses.replace(stage, variables=sharding.localize(loaded.variables, stage.mesh))
