"""What is said before the first step, and after the last."""

import json
from pathlib import Path

import jax

from fastmim_jax.data.augment import resizer_name
from fastmim_jax.data.decode import decoder_name
from fastmim_jax.io import read_json_lines
from fastmim_jax.train import stage as train_stage
from fastmim_jax.train import warm_start
from fastmim_jax.train.state import count_parameters


def describe(runs, source, held_out):
    """[(label, text)]: what is about to happen, for the stages of a run."""
    run = runs[0]
    config, devices = run.config, run.mesh.devices.ravel()
    mesh = " x ".join(f"{size} {axis}" for axis, size in run.mesh.shape.items())
    readers = f"{train_stage.worker_count(config.run)} worker processes, {config.run.threads} threads each"
    hosts = f"{jax.process_count()} process" + "es" * (jax.process_count() > 1)
    ignored = getattr(source, "ignored", 0)
    parameters = f"{count_parameters(run.abstract.params):,}"
    common = [
        ("data", f"{source!r}" + (f", {ignored:,} other files left alone" if ignored else "")),
        ("held out", repr(held_out) if held_out else "none (--config.data.eval_path or eval_split)"),
        ("reading", f"{readers}; {decoder_name()}; {resizer_name()}"),
        ("devices", f"{len(devices)} {devices[0].device_kind} ({mesh}), {hosts}"),
        ("method", f"{config.method.name} over {config.method.backbone.name} -> {config.method.target}"),
        *_partial(config.method),
        ("parameters", f"{parameters}, computing in {config.method.dtype}"),
        ("records", f"{run.plan.records:,}, {config.data.channels} channels"),
    ]
    if len(runs) == 1:
        return [*common, *run.plan.describe()]
    stages = [(f"stage {run.plan.stage + 1}", _in_a_line(run.plan)) for run in runs]
    return [*common, ("stages", f"{len(runs)}, {run.plan.total_steps:,} steps in all"), *stages]


def describe_warm_start(run, saved, schemes=None):
    """[(label, text)]: what a Stage takes over from a Saved, and what not.

    schemes: as of `transfer.transfer`.
    """
    told = warm_start.report(saved.variables, run.abstract, schemes)
    return [("start", f"{saved.path}, step {saved.step:,}"), *told.describe()]


def _partial(method):
    """What is said of partial reconstruction, nothing where everything is decoded."""
    partial, kind = method.partial, method.partial.fill
    if not partial.throw_ratio:
        return []
    left = "left out of the loss" if kind == "none" else f"filled in ({kind.replace('_', ' ')})"
    return [("thrown", f"{partial.throw_ratio:.0%} of the tokens: not decoded ({partial.sampler}), {left}")]


def _in_a_line(plan):
    told = dict(plan.describe())
    wanted = ("images", "tokens", "batch", "learning rate")
    return ", ".join([f"steps {told['steps']}", *(f"{label} {told[label]}" for label in wanted)])


def summary(workdir, last=20):
    """{"steps", "train_loss" (mean of the last logged steps), "eval_loss" or None, "baselines"}.

    Baselines are those of the last stage that was begun: {"training": {what: loss}, ...}.
    """
    lines = read_json_lines(Path(workdir) / "metrics.jsonl").records
    losses = [line["loss"] for line in lines if "loss" in line]
    evals = [line["eval_loss"] for line in lines if "eval_loss" in line]
    tail = losses[-last:]
    return {
        "steps": max((line["step"] for line in lines), default=0),
        "train_loss": sum(tail) / len(tail) if tail else None,
        "eval_loss": evals[-1] if evals else None,
        "baselines": read_baselines(workdir)[-1],
    }


def read_baselines(workdir):
    """[{"training": {what: loss}, "held-out": ...}] of the stages that were begun; [] before the first."""
    path = Path(workdir) / "baselines.json"
    found = json.loads(path.read_text()) if path.exists() else []
    return [found] if isinstance(found, dict) else found  # one stage, as written before there were several
