"""What is said before the first step, and after the last."""

import json
from pathlib import Path

import jax

from fastmim_jax.data.augment import resizer_name
from fastmim_jax.data.decode import decoder_name
from fastmim_jax.train import setup
from fastmim_jax.train.metrics import read_metrics
from fastmim_jax.train.state import count_parameters


def describe(run, source, held_out):
    """[(label, text)]: what is about to happen."""
    config, devices = run.config, run.mesh.devices.ravel()
    height, width = config.data.image_size
    mesh = " x ".join(f"{size} {axis}" for axis, size in run.mesh.shape.items())
    readers = f"{setup.worker_count(config.run)} worker processes, {config.run.threads} threads each"
    hosts = f"{jax.process_count()} process" + "es" * (jax.process_count() > 1)
    ignored = getattr(source, "ignored", 0)
    parameters = f"{count_parameters(run.abstract.params):,}"
    return [
        ("data", f"{source!r}" + (f", {ignored:,} other files left alone" if ignored else "")),
        ("held out", repr(held_out) if held_out else "none (--config.data.eval_path or eval_split)"),
        ("reading", f"{readers}; {decoder_name()}; {resizer_name()}"),
        ("devices", f"{len(devices)} {devices[0].device_kind} ({mesh}), {hosts}"),
        ("method", f"{config.method.name} over {config.method.backbone.name} -> {config.method.target}"),
        ("images", f"{height} x {width}, {config.data.channels} channels"),
        ("parameters", f"{parameters}, computing in {config.method.dtype}"),
        *run.plan.describe(),
    ]


def summary(workdir, last=20):
    """{"steps", "train_loss" (mean of the last logged steps), "eval_loss" or None, "baselines"}."""
    lines = read_metrics(Path(workdir) / "metrics.jsonl")
    losses = [line["loss"] for line in lines if "loss" in line]
    evals = [line["eval_loss"] for line in lines if "eval_loss" in line]
    tail = losses[-last:]
    return {
        "steps": max((line["step"] for line in lines), default=0),
        "train_loss": sum(tail) / len(tail) if tail else None,
        "eval_loss": evals[-1] if evals else None,
        "baselines": json.loads((Path(workdir) / "baselines.json").read_text()),
    }
