"""Figures of the package's own training step, compiled for devices that this machine does not have."""

import ast
import resource
import runpy
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fastmim_jax
from fastmim_jax.stages import micro_batches
from fastmim_jax.tools.flops import matrix_flops
from fastmim_jax.tools.plan.figures import cost_analysis
from fastmim_jax.tools.plan.hlo_statistics import statistics
from fastmim_jax.train import sharding
from fastmim_jax.train.pretrain import PretrainStage, make_pretrain_stage

ROOT = Path(fastmim_jax.__file__).parents[1]  # of the measured checkout, not of this script
RECORDS = 1_281_167  # ImageNet-1k; no figure depends on it

jax.config.update("jax_enable_compilation_cache", False)  # compile seconds are measured


def load_config(name: str, overrides: Sequence[str] = (), depth: int = 0) -> Any:
    """Return the config of "FILE:VARIANT" of configs/.

    Args:
      name: such as "fastmim:vit_b16".
      overrides: "key=value" with the dotted keys of the config.
      depth: blocks of the backbone, 0 for the recipe's; in a backbone of four stages every stage keeps one
        block, and the third has the rest.
    """
    file, variant = name.split(":")
    config = runpy.run_path(str(ROOT / f"configs/{file}.py"))["get_config"](variant)
    if depth and config.method.backbone.name.startswith("vit"):
        config.method.backbone.depth = depth
    elif depth:
        config.method.backbone.depths = (1, 1, depth - 3, 1)
    for override in overrides:
        key, value = override.split("=", 1)
        *sections, last = key.split(".")
        section = config
        for part in sections:
            section = section[part]
        section[last] = _literal(value)
    return config


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def build(config: Any, devices: list, images: int) -> tuple[PretrainStage, dict]:
    """Return the stage of a config with so many images a device, and its batch as shapes."""
    config.schedule.batch_size = count = images * len(devices) * micro_batches(config.schedule)
    shape = (count, *config.data.image_size, config.data.channels)
    batch = {"image": jax.ShapeDtypeStruct(shape, np.uint8), "flip": jax.ShapeDtypeStruct(shape[:1], bool)}
    return make_pretrain_stage(config, RECORDS, devices), batch


def step_figures(stage: PretrainStage, batch: dict, options: dict, hlo_file: Path | None = None) -> dict:
    """Compile the training step; return {name: figure} for one device.

    Args:
      stage, batch: of `build`.
      options: of the compiler.
      hlo_file: where to write the optimised HLO, or None.
    """
    with jax.set_mesh(stage.mesh):
        start = _cpu_seconds()
        lowered = stage.step.jitted.lower(stage.abstract, batch)
        figures = {"trace_cpu_seconds": _cpu_seconds() - start}
        figures |= compile_figures(lowered, options, hlo_file)
    # Without the mesh: attention by XLA's products, which can be counted, instead of kernels.
    flops = matrix_flops(stage.step.jitted.__wrapped__, stage.abstract, batch)
    figures["matrix_flops"] = flops / stage.mesh.size
    figures["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(stage.abstract.params))
    return figures


def target_figures(stage: PretrainStage, options: dict, hlo_file: Path | None = None) -> dict:
    """Compile the reconstruction target alone; return {name: figure}, with `image_copies`.

    That is the number of float32 copies of the batch that the temporaries hold.
    """
    config, target, stride = stage.config, stage.model.target, stage.model.encoder.stride
    shape = (config.schedule.batch_size, *config.data.image_size, config.data.channels)
    rows = sharding.batch_sharding(stage.mesh)
    jitted = jax.jit(lambda images: target(images, stride), in_shardings=rows, out_shardings=rows)
    with jax.set_mesh(stage.mesh):
        figures = compile_figures(jitted.lower(jax.ShapeDtypeStruct(shape, np.float32)), options, hlo_file)
    batch_bytes = 4 * np.prod(shape, dtype=np.int64) / stage.mesh.size
    return figures | {"image_copies": figures["temporary_bytes"] / batch_bytes}


def compile_figures(lowered: Any, options: dict, hlo_file: Path | None = None) -> dict:
    """Compile a lowered program; return what the compiler says of it, for one device."""
    start, wall = _cpu_seconds(), time.perf_counter()
    compiled = lowered.compile(compiler_options=options)
    figures = {
        "compile_cpu_seconds": _cpu_seconds() - start,
        "compile_wall_seconds": time.perf_counter() - wall,
    }
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if hlo_file:
        hlo_file.write_text(text)
    figures |= {
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "peak_bytes": memory.peak_memory_in_bytes,
    }
    costs = cost_analysis(compiled)
    figures |= {key.replace(" ", "_"): costs[key] for key in ("flops", "bytes accessed", "transcendentals")}
    return figures | statistics(text)


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and its children (ptxas is one)."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def commit() -> str:
    """Return the commit of the measured checkout, with "+" if files were changed."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
    ).stdout
    return head.strip() + ("+" if changed else "")
