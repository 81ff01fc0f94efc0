"""Runs of every kind, by a config, with their evaluations; commands and functions of Python run them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from fastmim_jax.evaluate.best_checkpoint import BestCheckpoint
from fastmim_jax.evaluate.dense_probes.monitor import open_dense_monitor
from fastmim_jax.evaluate.finetune_baselines import measure_baselines
from fastmim_jax.evaluate.monitor import open_monitor
from fastmim_jax.evaluate.segmentation.baselines import measure_baselines as measure_mask_baselines
from fastmim_jax.evaluate.segmentation.best import BestSegmentation
from fastmim_jax.tools.reconstruct import draw_loss_curve, picture_hook
from fastmim_jax.train.finetune import finetune
from fastmim_jax.train.hook import Hook
from fastmim_jax.train.pretrain import pretrain
from fastmim_jax.train.remote.workdir import open_workdir
from fastmim_jax.train.report import summarize, summary_lines
from fastmim_jax.train.segment import segment


def run_pretraining(
    config: ConfigDict, workdir: str | Path, *, log: Callable[[str], None] = print, **options: Any
) -> None:
    """Pre-train with the pictures and probes that the config asks for, then print a summary.

    JAX is started before, see `start_jax`.

    Args:
      log: prints a line.
      **options: accept_changed_data and extend, see `train.pretrain.pretrain`.
    """
    hooks: list[Callable[..., Hook]] = [picture_hook] if config.run.picture_every else []
    hooks += [open_monitor(config)] if config.monitor.path else []
    hooks += [open_dense_monitor(config)] if config.monitor.masks else []
    with open_workdir(workdir, config.run, log) as folder:
        pretrain(config, folder, hooks, log, **options)
        if jax.process_index():
            return
        draw_loss_curve(folder)
        for line in summary_lines(summarize(folder), folder):
            log(line)


def run_finetuning(config: ConfigDict, workdir: str | Path, **options: Any) -> None:
    """Fine-tune a classifier and keep its best checkpoint; options: see `run_pretraining`."""
    finetune(config, workdir, BestCheckpoint, measure_baselines=measure_baselines, **options)


def run_segmentation(config: ConfigDict, workdir: str | Path, **options: Any) -> None:
    """Train a segmentation and keep its best checkpoint; options: see `run_pretraining`."""
    segment(config, workdir, BestSegmentation, measure_baselines=measure_mask_baselines, **options)


# By the kind of their config, see `saved_config.kind_of`.
RUNS: dict[str, Callable[..., None]] = {
    "pretrain": run_pretraining,
    "finetune": run_finetuning,
    "segment": run_segmentation,
}
