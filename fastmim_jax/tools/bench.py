"""Measure the cost of a config on this machine: the step, its target, reading, and the bottleneck."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fastmim_jax.data.sources import Source, labelled
from fastmim_jax.io import write_json
from fastmim_jax.tools.flops import matrix_flops, peak_flops
from fastmim_jax.train.finetune import make_finetune_stage
from fastmim_jax.train.inherit_backbone import inherit_backbone
from fastmim_jax.train.pretrain import PretrainStage, make_pretrain_stages
from fastmim_jax.train.runs import load_run
from fastmim_jax.train.stage import TrainStage, open_training_data

REPEATS = 5
READ_AHEAD = 8  # largest number of batches read in advance

Figures = dict[str, Any]


def bench(config: ConfigDict, workdir: str | Path | None = None) -> list[Figures]:
    """Measure and print the figures of every stage of a config.

    Args:
      config: of pre-training or of fine-tuning; reading is measured with the augmentation of the host.
      workdir: where to write bench.json, or None.

    Returns:
      [{name: figure}] of the stages, as printed.

    Raises:
      UserError: the config or its data cannot be used.
    """
    source, stages = _open_stages(config)
    figures = [_bench_stage(stage, source) for stage in stages]
    if workdir:
        write_json(Path(workdir) / "bench.json", figures, indent=2)
    return figures


def _open_stages(config: ConfigDict) -> tuple[Source, Sequence[TrainStage]]:
    """Return the training data and the stages of a config.

    Only the config of `config.init` is loaded: the values of the parameters do not change the cost.
    """
    source = open_training_data(config)
    if "method" in config:
        return source, make_pretrain_stages(config, len(source))
    classes = labelled(source).classes
    config = inherit_backbone(config, load_run(config.init).config if config.init else None)
    return source, [make_finetune_stage(config, len(source), classes)]


def _bench_stage(stage: TrainStage, source: Source) -> Figures:
    plan, workers = stage.plan, stage.reader.workers
    with stage.loader(source, batch_size=plan.batch_size, seed=0, workers=workers) as loader:
        batches = iter(loader)
        batch = stage.to_devices(next(batches), plan.batch_size)
        reading_seconds = _reading_seconds(batches)
    figures = {
        "stage": f"{plan.stage + 1} of {plan.stages}",
        "images": f"{plan.image_size[0]} x {plan.image_size[1]}",
        "device": f"{plan.devices} {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "batch_size": plan.batch_size,
        **_step_figures(stage, batch),
        "reading_images_per_second": plan.batch_size / reading_seconds,
        "reading_workers": workers,
    }
    figures |= _target_figures(stage, batch, figures["step_seconds"])
    reading_is_slower = reading_seconds > figures["step_seconds"]
    figures["bottleneck"] = "reading" if reading_is_slower else "the training step"
    for name, value in figures.items():
        print(f"{name:>34}  {value:,.4g}" if isinstance(value, float) else f"{name:>34}  {value}")
    return figures


def _step_figures(stage: TrainStage, batch: dict[str, jax.Array]) -> Figures:
    state = stage.create()

    def step():
        nonlocal state
        state, metrics = stage.step(state, batch)
        return metrics

    seconds = _median_seconds(step)
    # The backward pass costs twice the forward pass.
    flops = 3.0 * matrix_flops(*_forward_function(stage, batch["image"].shape[1:]))
    images_per_second = stage.plan.batch_size / seconds
    figures = {
        "step_seconds": seconds,
        "images_per_second": images_per_second,
        "training_gflops_per_image": flops / 1e9,
        "tflops": flops * images_per_second / 1e12,
    }
    peak = peak_flops(jax.devices()[0].device_kind)
    if peak:
        figures["mfu"] = flops * images_per_second / peak / stage.plan.devices
    return figures


def _forward_function(stage: TrainStage, image_shape: tuple[int, ...]) -> tuple:
    """Return the function that training differentiates, and its abstract arguments for one image."""
    variables = {"params": stage.abstract.params, **stage.abstract.collections}
    images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    if not isinstance(stage, PretrainStage):
        return stage.model.apply, variables, images
    noise = jax.ShapeDtypeStruct(stage.model.noise_shape(images.shape), np.float32)

    def loss(variables, images, noise):
        return stage.model.apply(variables, images, noise=noise).loss

    return loss, variables, images, noise


def _target_figures(stage: TrainStage, batch: dict[str, jax.Array], step_seconds: float) -> Figures:
    """Return the cost of the target, under its name in the config; empty if the target is not `timed`."""
    if not isinstance(stage, PretrainStage) or not stage.model.target.timed:
        return {}
    target, stride, name = stage.model.target, stage.model.encoder.stride, stage.config.method.target
    _, images = stage.forward(stage.create().eval_variables(), batch, np.int32(0))
    images = jax.device_put(np.asarray(images))
    compiled = jax.jit(lambda x: target(x, stride)).lower(images).compile()
    seconds = _median_seconds(lambda: compiled(images))
    memory = compiled.memory_analysis()  # None on platforms without it
    figures = {f"{name}_seconds": seconds, f"{name}_share_of_step": seconds / step_seconds}
    if memory is not None:
        figures[f"{name}_temporaries_in_image_copies"] = memory.temp_size_in_bytes / images.nbytes
    return figures


def _reading_seconds(batches: Iterator, least: float = 4.0) -> float:
    """Return the mean wall time of a batch, measured for `least` seconds after the batches read ahead."""
    for _ in range(READ_AHEAD):
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < least or count < READ_AHEAD:
        next(batches)
        count += 1
    return (time.perf_counter() - start) / count


def _median_seconds(function: Callable[[], Any]) -> float:
    """Return the median wall time of a call, after a warm-up call."""
    jax.block_until_ready(function())
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return statistics.median(times)
