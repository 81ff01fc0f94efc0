"""Worker: time this package's own training step. Started by run.py with its arguments as JSON."""

import ast
import json
import runpy
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import numpy as np
from worker import ask, figures, finish, out_of_memory, say, time_steps

from fastmim_jax.config import CHOICES
from fastmim_jax.errors import UserError
from fastmim_jax.tools.flops import matrix_flops, peak_flops
from fastmim_jax.tools.profile import kernel_classes, top_kernels, trace
from fastmim_jax.tools.step_cost import forward_function
from fastmim_jax.train import sharding
from fastmim_jax.train.pretrain import make_pretrain_stage

IMAGENET = 1_281_167  # images; only the schedule depends on it
COMPILE_GB = 4  # device memory that autotuning may take
CONFIGS = Path(__file__).parents[2] / "configs"
PROFILED_STEPS = 3


def build_stage(file, changes, batch):
    """Return the pre-training stage of FILE:VARIANT with changed keys."""
    name, _, variant = file.partition(":")
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](variant)
    config.schedule.batch_size = batch
    for key, value in changes.items():
        config.update_from_flattened_dict({key: _literal(value)})
    return make_pretrain_stage(config, IMAGENET)


def _literal(value):
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value


def random_batch(stage, batch):
    """Return random uint8 images in device memory."""
    height, width = stage.config.data.image_size
    random, rows = np.random.default_rng(0), sharding.batch_sharding(stage.mesh)
    images = random.integers(0, 256, (batch, height, width, stage.config.data.channels), np.uint8)
    return jax.device_put({"image": images, "flip": random.random(batch) < 0.5}, rows)


def abstract_batch(stage, batch):
    """Return the shapes of `random_batch`, with shardings."""
    height, width = stage.config.data.image_size
    rows = sharding.batch_sharding(stage.mesh)
    shape = (batch, height, width, stage.config.data.channels)
    return {
        "image": jax.ShapeDtypeStruct(shape, np.uint8, sharding=rows),
        "flip": jax.ShapeDtypeStruct((batch,), np.bool_, sharding=rows),
    }


def options(stage, changes):
    """Return the compute options of a stage, and the keys that were changed."""
    chosen = {}
    for key in CHOICES:
        section, _, name = key.partition(".")
        if section == "method" and name in stage.config.method:
            chosen[name] = stage.config.method[name]
    return {**chosen, **{key: str(value) for key, value in changes.items()}}


def compile_step(stage, batch):
    """Return the compiled step and the seconds of tracing and of compiling."""
    with jax.set_mesh(stage.mesh):
        start = time.perf_counter()
        lowered = stage.step.jitted.lower(stage.abstract, abstract_batch(stage, batch))
        traced = time.perf_counter()
        compiled = lowered.compile()
    return compiled, traced - start, time.perf_counter() - traced


def run(args, batch):
    """Compile, wait for the machine, time and report."""
    stage = build_stage(args["config"], args["changes"], batch)
    flops = 3.0 * matrix_flops(*forward_function(stage))
    say("flops", flops)
    # The allocator keeps the memory of a batch that did not fit.
    ask("need", COMPILE_GB if batch == args["batch"] else args["memory"])
    compiled, trace_seconds, compile_seconds = compile_step(stage, batch)
    state, data = stage.create(), random_batch(stage, batch)  # compiled too, beside the other processes
    ask("ready", args["memory"])
    metrics = None

    def step():
        nonlocal state, metrics
        state, metrics = compiled(state, data)

    def wait():
        jax.block_until_ready((state, metrics))

    with jax.set_mesh(stage.mesh):
        times, count = time_steps(step, wait, **args["stopwatch"])
        profile = _profile(compiled, step, lambda: metrics) if args["profile"] else None
    say("shared")
    device, analysis = jax.devices()[0], compiled.memory_analysis()
    peak, memory = peak_flops(device.device_kind), device.memory_stats() or {}
    result = {
        "pixels": args["pixels"],
        "batch": batch,
        "device": device.device_kind,
        "software": f"jax {jax.__version__}",
        **figures(times, count, batch),
        "gflops_img": round(flops / 1e9, 2),
        "mfu": round(1e3 * flops * batch / times[0] / peak, 4) if peak else None,
        "peak_gb": round(memory["peak_bytes_in_use"] / 1e9, 2) if memory else None,
        "temporaries_gb": round(analysis.temp_size_in_bytes / 1e9, 2) if analysis else None,
        "trace_s": round(trace_seconds, 1),
        "compile_s": round(compile_seconds, 1),
        "loss": round(float(metrics["loss"]), 4),
        "options": options(stage, args["changes"]),
    }
    finish(result)
    if profile:
        _report_kernels(args, profile)


def _profile(compiled, step, outputs):
    """Trace a few steps and return the folder of the trace."""

    def run():
        for _ in range(PROFILED_STEPS):
            step()
        return outputs()

    folder = tempfile.mkdtemp()
    trace(folder, compiled, run)
    return folder


def _report_kernels(args, folder):
    """Report the kernel time of a step by class, and the longest kernels."""
    scale = 1e3 / PROFILED_STEPS
    try:
        classes = {kind: round(scale * seconds, 3) for kind, seconds in kernel_classes(folder).items()}
    except UserError as error:
        finish({"profile_failed": str(error)})
        return
    finish({"ms_by_class": classes})
    lines = [f"{args['label']}: ms a step, calls a step, class, kernel"]
    for kernel in top_kernels(folder, 60):
        figures = f"{scale * kernel.seconds:9.3f}  {kernel.calls / PROFILED_STEPS:6.1f}"
        lines.append(f"{figures}  {kernel.kind:12}  {kernel.name}")
    say("text", json.dumps(["kernels.txt", "\n".join(lines)]))


def main():
    args = json.loads(sys.argv[1])
    batch = args["batch"]
    while True:
        try:
            return run(args, batch)
        except Exception as error:
            if not out_of_memory(error) or batch < 2 * args["least_batch"]:
                raise
            print(f"batch {batch} does not fit: {str(error)[:300]}", flush=True)
        say("shared")
        batch //= 2


if __name__ == "__main__":
    main()
