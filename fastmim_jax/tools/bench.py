"""Measure the cost of a config on this machine: the step, its target, reading, and the bottleneck."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from fastmim_jax.build import stored_images
from fastmim_jax.data.sources import Source, labelled
from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json, write_json
from fastmim_jax.paths import check_output
from fastmim_jax.tools.read_cost import read_costs
from fastmim_jax.tools.step_cost import CompiledStep, Figures, median_seconds
from fastmim_jax.train import sharding
from fastmim_jax.train.accumulation import fit_stage
from fastmim_jax.train.data_values import settle_values
from fastmim_jax.train.finetune import FinetuneStage, make_finetune_stage
from fastmim_jax.train.handshake import compare_processes, describe_run
from fastmim_jax.train.inherit_backbone import inherit_backbone
from fastmim_jax.train.pretrain import PretrainStage, make_pretrain_stages
from fastmim_jax.train.runs import load_run
from fastmim_jax.train.stage import TrainStage, cached, open_training_data
from fastmim_jax.train.training_data import describe_data

READ_AHEAD = 8  # largest number of batches read in advance
IMAGENET_IMAGES, IMAGENET_CLASSES = 1_281_167, 1000  # of synthetic data


def bench(
    config: ConfigDict,
    workdir: str | Path | None = None,
    *,
    synthetic: bool = False,
    profile: bool = False,
) -> list[Figures]:
    """Measure and print the figures of every stage of a config.

    Args:
      config: of pre-training or of fine-tuning; reading is measured with the augmentation of the host.
      workdir: where to write bench.json and the traces, or None.
      synthetic: train on random images in memory: no data is opened, and reading is not measured.
      profile: trace some steps and add the seconds of every class of kernels.

    Returns:
      [{name: figure}] of the stages, as printed.

    Raises:
      UserError: the config or its data cannot be used.
    """
    source = None if synthetic else cached(open_training_data(config), config, _log)
    figures, first = [], jax.process_index() == 0
    if jax.process_count() > 1:
        compare_processes("run", describe_run(config, {} if source is None else describe_data(source)))
    if workdir and first:
        check_output(Path(workdir) / "bench.json", "--workdir=", is_result=_is_bench)
    with _folder(workdir if first else None) as folder:
        for stage in make_stages(config, source):
            stage = fit_stage(stage, lambda line: None)  # the figures say it
            trace_dir = folder / f"profile_stage_{stage.plan.stage + 1}" if profile else None
            figures.append(_bench_stage(stage, source, trace_dir))
    if workdir and first:
        write_json(Path(workdir) / "bench.json", figures, indent=2)
    return figures


def _is_bench(path: Path) -> bool:
    """Return whether `bench` wrote a file."""
    try:
        return all(isinstance(stage, dict) for stage in read_json(path, list, "figures of `fastmim bench`"))
    except UserError:
        return False


@contextmanager
def _folder(workdir: str | Path | None) -> Iterator[Path]:
    """Give the work directory, or a temporary one."""
    if workdir:
        yield Path(workdir)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def make_stages(
    config: ConfigDict,
    source: Source | None,
    devices: list | None = None,
    records: int = IMAGENET_IMAGES,
) -> Sequence[TrainStage]:
    """Return the stages of a config, with as many images and classes as the data.

    Only the config of `config.init` is loaded: the values of the parameters do not change the cost.

    Args:
      config: of pre-training or of fine-tuning.
      source: the training data, or None.
      devices: None for all.
      records: images, where there is no data.

    Raises:
      UserError: the config cannot work.
    """
    records = records if source is None else len(source)
    config = config if source is None else settle_values(config, source, log=_log).config
    stored = stored_images(source)
    if "method" in config:
        return make_pretrain_stages(config, records, devices, stored=stored)
    if source is None:
        classes: Sequence[str] = [str(index) for index in range(config.model.classes or IMAGENET_CLASSES)]
    else:
        classes = labelled(source).classes
    config = inherit_backbone(config, load_run(config.init).config if config.init else None)
    return [make_finetune_stage(config, records, classes, devices, stored=stored)]


def _bench_stage(stage: TrainStage, source: Source | None, trace_dir: Path | None) -> Figures:
    plan = stage.plan
    batch, reading = _random_batch(stage) if source is None else _read_batch(stage, source)
    step = CompiledStep(stage, batch)
    figures = {
        "stage": f"{plan.stage + 1} of {plan.stages}",
        "images": f"{plan.image_size[0]} x {plan.image_size[1]}",
        "device": f"{plan.devices} {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "batch_size": plan.batch_size,
        "accumulation": plan.accumulation,
        **step.figures(),
        **reading,
    }
    figures |= _target_figures(stage, batch, figures["step_seconds"])
    if reading:
        reading_is_slower = reading["reading_images_per_second"] < figures["images_per_second"]
        figures["bottleneck"] = "reading" if reading_is_slower else "the training step"
    _print(figures)
    if trace_dir:
        figures |= _profile(step, trace_dir)
    return figures


def _log(text: str) -> None:
    if jax.process_index() == 0:
        print(text)


def _print(figures: Figures) -> None:
    for name, value in figures.items():
        _log(f"{name:>34}  {value:,.4g}" if isinstance(value, float) else f"{name:>34}  {value}")


def _profile(step: CompiledStep, trace_dir: Path) -> Figures:
    """Print and return the time of each class of kernels, and the kernels that take longest."""
    classes, kernels = step.profile(trace_dir)
    total = sum(classes.values())
    _log("kernels of one step, per device (on CPU devices: CPU time of all threads)")
    for kind, seconds in classes.items():
        _log(f"{kind:>34}  {seconds * 1e3:,.2f} ms  {seconds / total:.1%}")
    listed = [
        {"kernel": kernel.name, "class": kernel.kind, "calls": kernel.calls, "seconds": kernel.seconds}
        for kernel in kernels
    ]
    return {"kernel_seconds": classes, "top_kernels": listed}


def _random_batch(stage: TrainStage) -> tuple[dict[str, jax.Array], Figures]:
    """Return a batch of noise on the devices, with the arrays of the loader, and no figures of reading."""
    size, rng = stage.plan.batch_size, np.random.default_rng(0)
    shape = (len(stage.rows(size)), *stage.reader.training_shape)
    batch = {
        "image": rng.integers(0, 256, shape, np.uint8).astype(stage.reader.pixel_dtype),
        "flip": rng.integers(0, 2, shape[0]).astype(bool),
    }
    if isinstance(stage, FinetuneStage):
        batch["label"] = rng.integers(0, len(stage.classes), shape[0])
    return stage.to_devices(batch, size), {}


def _read_batch(stage: TrainStage, source: Source) -> tuple[dict[str, jax.Array], Figures]:
    """Return a batch of the data on the devices, and the figures of reading."""
    size, workers = stage.plan.batch_size, stage.reader.workers
    with stage.loader(source, batch_size=size, seed=0, workers=workers) as loader:
        batches = iter(loader)
        rows = next(batches)
        seconds = _reading_seconds(batches)
    figures = {"reading_images_per_second": size / seconds, "reading_workers": workers}
    return stage.to_devices(rows, size), figures | read_costs(stage, source, rows, stage.views)


def _target_figures(stage: TrainStage, batch: dict[str, jax.Array], step_seconds: float) -> Figures:
    """Return the cost of the target, under its name in the config; empty if the target is not `timed`."""
    if not isinstance(stage, PretrainStage) or not stage.model.target.timed:
        return {}
    target, stride, name = stage.model.target, stage.model.encoder.stride, stage.config.method.target

    def prepare(batch):
        crops = stage.reader.crop_training(batch)
        return stage.reader.normalize_training(crops["image"], crops["flip"])

    normalize = jax.jit(prepare, out_shardings=sharding.replicated(stage.mesh))
    images = jax.device_put(np.asarray(normalize(batch)))
    compiled = jax.jit(lambda x: target(x, stride)).lower(images).compile()
    seconds = median_seconds(lambda: compiled(images))
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
