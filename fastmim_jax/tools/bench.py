"""What a config costs here: the step, HOG within it, and reading, and which of them binds."""

import statistics
import time
from pathlib import Path

import jax
import numpy as np

from fastmim_jax.data.sources import labelled
from fastmim_jax.io import write_json
from fastmim_jax.tools.flops import matrix_flops, peak_flops
from fastmim_jax.train.finetune import make_finetune_stage
from fastmim_jax.train.inherit_backbone import inherit_backbone
from fastmim_jax.train.pretrain import PretrainStage, make_pretrain_stages
from fastmim_jax.train.runs import load_run
from fastmim_jax.train.stage import open_training_data

REPEATS = 5
READ_AHEAD = 8  # batches that may lie ready


def bench(config, workdir=None):
    """Measures and prints every stage of a config; with a work directory, writes bench.json there too.

    Args:
      config: of pre-training or of fine-tuning; reading is measured with the augmentation of the host.

    Returns:
      [{name: figure}] of the stages, as printed.

    Raises:
      UserError: the config or its data cannot be used.
    """
    source, runs = open_stages(config)
    stages = [_bench_stage(run, source) for run in runs]
    if workdir:
        write_json(Path(workdir) / "bench.json", stages, indent=2)
    return stages


def open_stages(config, devices=None):
    """-> (the training data, [TrainStage]) of a config of pre-training or of fine-tuning.

    Of `config.init` only the config is taken: what the parameters are changes neither costs nor pictures.

    Raises:
      UserError: the config or its data cannot be used.
    """
    source = open_training_data(config)
    if "method" in config:
        return source, make_pretrain_stages(config, len(source), devices)
    classes = labelled(source).classes
    config = inherit_backbone(config, load_run(config.init).config if config.init else None)
    return source, [make_finetune_stage(config, len(source), classes, devices)]


def _bench_stage(run, source):
    plan, workers = run.plan, run.reader.workers
    with run.loader(source, batch_size=plan.batch_size, seed=0, workers=workers) as loader:
        batches = iter(loader)
        batch = run.to_devices(next(batches), plan.batch_size)
        reading = _reading_seconds(batches)
    found = {
        "stage": f"{plan.stage + 1} of {plan.stages}",
        "images": f"{plan.image_size[0]} x {plan.image_size[1]}",
        "device": f"{plan.devices} {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "batch_size": plan.batch_size,
        **_step_figures(run, batch),
        "reading_images_per_second": plan.batch_size / reading,
        "reading_workers": workers,
    }
    found |= _target_figures(run, batch, found["step_seconds"])
    found["binds"] = "reading" if reading > found["step_seconds"] else "the step"
    for name, value in found.items():
        print(f"{name:>34}  {value:,.4g}" if isinstance(value, float) else f"{name:>34}  {value}")
    return found


def _step_figures(run, batch):
    state = run.create()

    def step():
        nonlocal state
        state, metrics = run.step(state, batch)
        return metrics

    seconds = _seconds(step)
    flops = 3.0 * matrix_flops(*_forward(run, batch["image"].shape[1:]))
    images_per_second = run.plan.batch_size / seconds
    figures = {
        "step_seconds": seconds,
        "images_per_second": images_per_second,
        "training_gflops_per_image": flops / 1e9,
        "tflops": flops * images_per_second / 1e12,
    }
    peak = peak_flops(jax.devices()[0].device_kind)
    if peak:
        figures["mfu"] = flops * images_per_second / peak / run.plan.devices
    return figures


def _forward(run, shape):
    """A function that training differentiates, and its arguments for one image, all but their values."""
    variables = {"params": run.abstract.params, **run.abstract.collections}
    images = jax.ShapeDtypeStruct((1, *shape), np.float32)
    if not isinstance(run, PretrainStage):
        return run.model.apply, variables, images
    noise = jax.ShapeDtypeStruct(run.model.noise_shape(images.shape), np.float32)

    def loss(variables, images, noise):
        return run.model.apply(variables, images, noise=noise).loss

    return loss, variables, images, noise


def _target_figures(run, batch, step_seconds):
    """The cost of computing the target, under its name in the config, if the target asks for it."""
    if not isinstance(run, PretrainStage) or not run.model.target.timed:
        return {}
    target, stride, name = run.model.target, run.model.encoder.stride, run.config.method.target
    images = jax.device_put(np.asarray(run.forward(run.create().eval_variables(), batch, np.int32(0))[1]))
    compiled = jax.jit(lambda x: target(x, stride)).lower(images).compile()
    seconds = _seconds(lambda: compiled(images))
    return {
        f"{name}_seconds": seconds,
        f"{name}_share_of_step": seconds / step_seconds,
        f"{name}_temporaries_in_image_copies": compiled.memory_analysis().temp_size_in_bytes
        / images.nbytes,
    }


def _reading_seconds(batches, least=4.0):
    """Mean wall time of a batch, long after those that were read ahead."""
    for _ in range(READ_AHEAD):
        next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < least or count < READ_AHEAD:
        next(batches)
        count += 1
    return (time.perf_counter() - began) / count


def _seconds(function):
    """Median wall time of a call, after one that is not counted."""
    jax.block_until_ready(function())
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - began)
    return statistics.median(times)
