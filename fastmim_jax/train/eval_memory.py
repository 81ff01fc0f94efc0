"""Batches of an evaluation that fit in memory, with the network's parameters already on the devices."""

import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

from fastmim_jax.errors import OutOfMemoryError
from fastmim_jax.train.compilation import OnMesh
from fastmim_jax.train.inference import ROWS, InferenceStage
from fastmim_jax.train.memory import (
    USABLE,
    argument_bytes,
    compiled_bytes,
    describe_bytes,
    free_bytes,
    largest_of_processes,
    reading_bytes,
)

AnyStage = TypeVar("AnyStage", bound=InferenceStage)


def fit_eval_batch(
    stage: AnyStage,
    function: OnMesh,
    records: int,
    log: Callable[[str], None],
    free: int | None = None,
) -> AnyStage:
    """Return a stage whose batches fit in memory; log the size if it is smaller than that of `stage`.

    The results do not depend on the size: images are evaluated one by one.

    Args:
      stage: with its variables on the devices.
      function: (variables, batch of ROWS) -> outputs; compiled, so that its first call does not.
      records: images to evaluate; a batch has no more of them.
      log: prints a line.
      free: bytes on one device beside the variables; None: those free now.

    Raises:
      OutOfMemoryError: one image on each device does not fit; with the numbers.
    """
    found = free_bytes(stage.mesh) if free is None else free
    if found is None:
        return stage
    free = -int(largest_of_processes(-found))
    held, limit = argument_bytes(stage.variables), max(1.0, USABLE * free)
    size = whole = stage.batch_size_for(records)
    needs: dict[int, float] = {}
    while True:
        batch = stage.abstract_arrays(ROWS, size, stage.reader.image_shape)
        program = max(0.0, compiled_bytes(function, stage.variables, batch) - held)
        needs[size] = program + reading_bytes(batch, stage.mesh)
        if needs[size] <= limit:
            break
        if size == stage.device_count:
            on_cpu = stage.mesh.devices.flat[0].platform == "cpu"
            host = "" if on_cpu else ", or set JAX_PLATFORMS=cpu to compute in the memory of the host"
            sentence = f"{_needs(size, needs[size], free)}: end other programs that use this memory{host}"
            raise OutOfMemoryError(sentence)
        size = _smaller(size, needs[size], limit, stage.device_count)
    if size == whole:
        return stage
    log(f"batches of {size:,} images, as {_needs(whole, needs[whole], free)}")
    return dataclasses.replace(stage, eval_batch_size=size)


def _smaller(size: int, need: float, limit: float, devices: int) -> int:
    """Return a size halved once, or as often as is needed if memory is in proportion to it."""
    halvings = 1 if math.isinf(need) else max(1, math.ceil(math.log2(need / limit)))
    return max(1, (size // devices) >> halvings) * devices


def _needs(size: int, need: float, free: int) -> str:
    images = f"{size:,} image{'s' * (size != 1)} at a time"
    if math.isinf(need):
        return f"the program for {images} is too large to be compiled, with {describe_bytes(free)} free"
    take = "takes" if size == 1 else "take"
    seen = f"{images} {take} {describe_bytes(need)} of memory beside the parameters"
    return f"{seen}, and {describe_bytes(free)} are free"
