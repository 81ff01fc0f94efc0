"""`fastmim finetune`: a classifier from a pre-trained backbone."""

from pathlib import Path

import jax

from fastmim_jax.data.augment import resizer_name
from fastmim_jax.data.decode import decoder_name
from fastmim_jax.data.labels import open_labelled
from fastmim_jax.errors import UserError
from fastmim_jax.evaluate import tuning
from fastmim_jax.evaluate.classify import classify
from fastmim_jax.evaluate.report import write_report
from fastmim_jax.io import write_json
from fastmim_jax.train import stage as train_stage
from fastmim_jax.train import warm_start
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.loop import Hook, prepare_workdir, train
from fastmim_jax.train.runs import BEST
from fastmim_jax.train.state import count_parameters


def finetune(config, workdir, log=print):
    """Fine-tunes, or goes on fine-tuning, in a work directory.

    Args:
      config: of `fastmim_jax.config.finetune_config`.
      workdir: made if missing; holds what pre-training's does, and best/, classes.json, evaluation.json,
        confusion.csv and, in pictures/, confusion.png.
      announce: where lines go.

    Returns:
      The number of updates done; fewer than planned if a signal stopped the run.

    Raises:
      UserError: bad config, data, checkpoint or work directory.
    """
    log = log if jax.process_index() == 0 else lambda text: None
    source, held_out = open_labelled(config)
    _check_classes(config, source)
    config, saved = tuning.starting_point(config, workdir)
    run = tuning.build(config, len(source), source.classes, saved=saved)
    report = (
        warm_start.report(saved.variables, run.abstract, run.model.encoder.resampling) if saved else None
    )
    workdir = prepare_workdir(workdir, config)
    if jax.process_index() == 0:
        write_json(workdir / "classes.json", run.classes, indent=0)
        if report:
            write_json(workdir / "transfer.json", report._asdict())
    for label, text in _describe(run, source, held_out, saved, report):
        log(f"{label:>14}  {text}")
    with Best(run, held_out, workdir) as best:
        step = train([run], config, source, workdir, lambda *_: [best.hook()], log)
        if step == run.plan.total_steps:
            told = write_report(best.verdict(), held_out, run.classes, workdir)
            for line in told:
                log(line)
    return step


class Best:
    """Evaluates a run now and then, and keeps the checkpoint that was best in best/.

    What was best up to a step is read back there, so that it outlives an interruption; an older checkpoint
    than the one in best/ may be gone on from.
    """

    def __init__(self, run, source, workdir):
        self._run, self._source = run, source
        self._kept = Checkpoints(Path(workdir) / BEST, keep=1)

    def hook(self):
        """A Hook that evaluates every `config.run.eval_epochs`, and after the last step."""
        plan, epochs = self._run.plan, self._run.config.run.eval_epochs
        return Hook(max(1, round(epochs * plan.steps_per_epoch)) if epochs else plan.total_steps, self.look)

    def look(self, step, state):
        """-> {"top1", "top5", "eval_loss", "best_top1"}: shares, and the mean cross-entropy."""
        found = classify(self._run, state.eval_variables(), self._source)
        history = self.history(step)
        before = history[-1][1] if history else None
        if before is None or found.top1 > before:
            history = [*history, [step, found.top1]]
            position = {"top1": found.top1, "history": history, "classes": list(self._run.classes)}
            self._kept.save(step, state, position, items=("params",))
        return {
            "top1": found.top1,
            "top5": found.top5,
            "eval_loss": float(found.loss.mean(dtype="float64")),
            "best_top1": max(found.top1, before or 0.0),
        }

    def history(self, step):
        """[[step, accuracy]] of what were the best evaluations before a step, the best one last."""
        latest = self._kept.latest()
        history = [] if latest is None else self._kept.position(latest)["history"]
        return [[at, top1] for at, top1 in history if at < step]

    def verdict(self):
        """(step, Judged) of the best checkpoint."""
        step = self._kept.latest()
        state = self._kept.restore_params(step, self._run.abstract)
        return step, classify(self._run, state.eval_variables(), self._source)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._kept.close()


def _check_classes(config, source):
    wanted, there = config.model.classes, len(source.classes)
    if wanted is not None and wanted != there:
        raise UserError(
            f"config.model.classes is {wanted}, but {source!r} has {there} classes: leave it unset, or "
            f"type --config.model.classes={there}"
        )


def _describe(run, source, held_out, saved, report):
    config, devices = run.config, run.mesh.devices.ravel()
    settings, augment = config.run, config.augment
    parameters = count_parameters(run.abstract.params)
    mesh = " x ".join(f"{size} {axis}" for axis, size in run.mesh.shape.items())
    readers = f"{train_stage.worker_count(settings)} worker processes, {settings.threads} threads each"
    begun = [("start", f"{saved.path}, step {saved.step:,}"), *report.describe()] if saved else []
    return [
        ("data", repr(source)),
        ("evaluated on", f"{held_out!r}, every {settings.eval_epochs:g} epochs"),
        ("reading", f"{readers}; {decoder_name()}; {resizer_name()}"),
        ("devices", f"{len(devices)} {devices[0].device_kind} ({mesh}), {jax.process_count()} process(es)"),
        ("model", f"{config.model.backbone.name}, {run.model.pooling}, {len(run.classes)} classes"),
        ("parameters", f"{parameters:,}, computing in {config.model.dtype}"),
        *begun,
        *run.plan.describe(),
        (
            "layer-wise",
            f"learning rate x {config.optimizer.layer_decay:g} per block from the last to the first, "
            f"drop path up to {config.model.backbone.drop_path or 0:g}",
        ),
        (
            "augmented by",
            f"RandAugment {augment.magnitude:g}, random erasing {augment.random_erasing:g}, "
            f"mixup {augment.mixup:g}, cutmix {augment.cutmix:g}, "
            f"label smoothing {augment.label_smoothing:g}",
        ),
    ]
