"""Plan a run on hardware that is not here: compile its step, search what fits, print memory and work."""

import importlib.metadata
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from fastmim_jax.errors import UserError
from fastmim_jax.io import write_json
from fastmim_jax.paths import check_output
from fastmim_jax.stages import stage_lengths
from fastmim_jax.tools.bench import IMAGENET_IMAGES, make_stages
from fastmim_jax.tools.plan.cudnn import assume_cudnn
from fastmim_jax.tools.plan.figures import step_figures
from fastmim_jax.tools.plan.report import StageReport, run_lines, stage_lines, table_cells
from fastmim_jax.tools.plan.roofline import roofline
from fastmim_jax.tools.plan.search import Answer, Changes, StageCandidates, find_fitting, settings
from fastmim_jax.tools.plan.topology import NO_GPU_COMPILER, Topology, open_devices, parse_topology
from fastmim_jax.train.stage import with_values
from fastmim_jax.validate.names import flag, stage_of

EFFORT_VARIABLE = "JAX_OPTIMIZATION_LEVEL"
EFFORT = "O1"  # of the TPU compiler, which takes far longer at its default
COMPILERS = {"tpu": "libtpu", "gpu": "jax-cuda13-pjrt"}  # packages


def plan(
    config: Any,
    topology: str,
    batch: int | None = None,
    records: int | None = None,
    out: str | None = None,
    log: Callable[[str], None] = print,
) -> int:
    """Print the plan of a run.

    Args:
      config: of pre-training or fine-tuning.
      topology: such as "v5e:2x4", see `parse_topology`.
      batch: images per update; None: the config's.
      records: images in the training data; None: those of ImageNet-1k.
      out: a JSON file to write the figures to, or None.
      log: takes a line.

    Returns:
      The exit code: 0, or 1 if nothing fits.

    Raises:
      UserError: a bad topology or config, or a compiler that is not installed.
    """
    hardware, records = parse_topology(topology), records or IMAGENET_IMAGES
    if out:
        check_output(Path(out), "--out=")
    if batch and stage_lengths(config).get("batch_sizes"):
        raise UserError(
            "--batch is for one stage, and config.stages.batch_sizes has a batch for every one: type "
            "--config.stages.batch_sizes='(FIRST, SECOND, ...)'"
        )
    if batch:
        config.schedule.batch_size = batch
    _prepare_jax(hardware)
    devices = open_devices(hardware)
    heading = _heading(hardware)
    for line in heading:
        log(line)

    opened: list[StageCandidates] = []  # of the newest setting

    def open_candidates(changes: Changes) -> Sequence[StageCandidates]:
        stages = make_stages(with_values(config, changes), None, devices, records)
        opened[:] = [StageCandidates(stage, log) for stage in stages]
        return opened

    usable = hardware.chip.usable_bytes()
    try:
        answer = find_fitting(settings(config, hardware), open_candidates, usable, log)
    except jax.errors.JaxRuntimeError as error:
        if hardware.chip.platform != "gpu":
            raise
        seen = str(error).partition("\n")[0][:200]
        raise UserError(
            f"XLA's GPU compiler of jax {jax.__version__} failed ({seen}): {NO_GPU_COMPILER}"
        ) from error
    if answer.changes is None:
        log(_nothing_fits(answer, usable))
        return 1
    reports = []
    for candidates, choice in zip(opened, answer.choices, strict=True):
        stage = candidates.stage(choice.accumulation or 1)
        figures = step_figures(stage, stage.step.compile(stage.abstract, stage.abstract_batch()))
        reports.append(StageReport(stage.plan, figures, roofline(figures, hardware)))
    for report in reports:
        for line in stage_lines(report, hardware):
            log(line)
    for line in run_lines(reports, hardware, records):
        log(line)
    typed = _flags(config, answer, batch)
    log(f"to train so, type: {' '.join(typed)}")
    if out:
        cells = [table_cells(report, hardware) for report in reports]
        write_json(Path(out), {"planned": heading, "flags": typed, "stages": cells}, indent=2)
    return 0


def _prepare_jax(topology: Topology) -> None:
    """Let JAX use the CPU, compile at EFFORT, and keep no programs: other hardware's cannot be read."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    logging.getLogger("jax_plugins.xla_cuda13").setLevel(
        logging.ERROR
    )  # it misses a part that is not needed
    if topology.chip.platform == "gpu":
        assume_cudnn()
    if topology.chip.platform == "tpu" and EFFORT_VARIABLE not in os.environ:
        jax.config.update("jax_optimization_level", EFFORT)


def _heading(topology: Topology) -> list[str]:
    compiler = COMPILERS[topology.chip.platform]
    try:
        version = importlib.metadata.version(compiler)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    compilers = f"jax {jax.__version__}, {compiler} {version}"
    lines = [f"planned for {topology}, compiled by {compilers}; nothing is run"]
    if topology.chip.platform == "gpu":
        return [
            *lines,
            "without a GPU there is no tuning of kernels, and the workspace of cuDNN's attention is not "
            "counted",
        ]
    effort = os.environ.get(EFFORT_VARIABLE, EFFORT)
    return [
        *lines,
        f"at effort {effort}: training compiles so with {EFFORT_VARIABLE}={effort}; its default "
        "takes longer and may need another amount of memory",
    ]


def _nothing_fits(answer: Answer, usable: float) -> str:
    return (
        f"nothing fits: a step needs {answer.least / 2**30:,.2f} GiB of a chip or more, and a program may "
        f"use {usable / 2**30:,.2f} GiB: use more chips, smaller images or a smaller backbone"
    )


def _flags(config: Any, answer: Answer, batch: int | None) -> list[str]:
    """Return what to type for a run that fits."""
    typed = [flag("schedule.batch_size", batch)] if batch else []
    typed += [flag(key, value) for key, value in (answer.changes or {}).items()]
    for index, choice in enumerate(answer.choices):
        words = stage_of(config, index).typed("schedule.accumulation", choice.accumulation)
        typed.append(words.removeprefix("type "))
    return list(dict.fromkeys(typed))
