"""The cost of a training step on this machine: compilation, time, memory, FLOPs and kernels."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fastmim_jax.tools.flops import matrix_flops, peak_flops
from fastmim_jax.tools.profile import Kernel, kernel_classes, top_kernels, trace
from fastmim_jax.train.memory import program_bytes
from fastmim_jax.train.pretrain import PretrainStage
from fastmim_jax.train.stage import TrainStage

REPEATS = 5
PROFILED_STEPS = 3

Figures = dict[str, Any]


class CompiledStep:
    """The training step of a stage, compiled for one batch, and the state that it changes.

    Args:
      stage: of training.
      batch: on the devices.
    """

    def __init__(self, stage: TrainStage, batch: dict[str, jax.Array]):
        self._stage, self._batch = stage, batch
        self.compiled = stage.step.compile(stage.abstract, batch)
        self._compilation = stage.step.compilation_cost(stage.abstract, batch)
        self._state = stage.create()

    def __call__(self) -> dict[str, jax.Array]:
        """Make one update and return its metrics."""
        with jax.set_mesh(self._stage.mesh):
            self._state, metrics = self.compiled(self._state, self._batch)
        return metrics

    def figures(self) -> Figures:
        """Return the figures of compilation, time, memory and FLOPs; the step is run."""
        cost = self._compilation
        compiling = "reading_compiled_step_seconds" if cost.from_cache else "compile_seconds"
        figures = {"tracing_seconds": cost.tracing_seconds, compiling: cost.compiling_seconds}
        seconds = median_seconds(self)
        # The backward pass costs twice the forward pass.
        flops = 3.0 * matrix_flops(*forward_function(self._stage))
        images_per_second = self._stage.plan.batch_size / seconds
        figures |= {
            "step_seconds": seconds,
            "images_per_second": images_per_second,
            "training_gflops_per_image": flops / 1e9,
            "tflops": flops * images_per_second / 1e12,
        }
        peak = peak_flops(jax.devices()[0].device_kind)
        if peak:
            figures["mfu"] = flops * images_per_second / peak / self._stage.plan.devices
        return figures | self._memory_figures()

    def _memory_figures(self) -> Figures:
        """Return GiB on one device: the compiler's plan of the step, and the allocator's peak so far."""
        figures, plan = {}, self.compiled.memory_analysis()  # None on platforms without it
        if plan is not None:
            figures["planned_temporaries_gib"] = plan.temp_size_in_bytes / 2**30
            figures["planned_memory_gib"] = (program_bytes(self.compiled) or 0) / 2**30
        peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        if peak:
            figures["peak_memory_gib"] = peak / 2**30
        return figures

    def profile(self, directory: Path) -> tuple[dict[str, float], list[Kernel]]:
        """Trace some steps into a folder.

        Returns:
          {class of kernels: seconds a step}, and the kernels that take longest, with seconds of all steps.
        """
        jax.block_until_ready(self())
        trace(directory, self.compiled, lambda: [self() for _ in range(PROFILED_STEPS)])
        classes = {kind: seconds / PROFILED_STEPS for kind, seconds in kernel_classes(directory).items()}
        return classes, top_kernels(directory, 20)


def forward_function(stage: TrainStage) -> tuple:
    """Return the function that training differentiates, and its abstract arguments for one image."""
    variables = {"params": stage.abstract.params, **stage.abstract.collections}
    images = jax.ShapeDtypeStruct((1, *stage.reader.image_shape), np.float32)
    if not isinstance(stage, PretrainStage):
        return stage.model.apply, variables, images
    noise = jax.ShapeDtypeStruct(stage.model.noise_shape(images.shape), np.float32)

    def loss(variables, images, noise):
        return stage.model.apply(variables, images, noise=noise).loss

    return loss, variables, images, noise


def median_seconds(function: Callable[[], Any]) -> float:
    """Return the median wall time of a call, after a warm-up call."""
    jax.block_until_ready(function())
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return statistics.median(times)
