"""The training loop: restore, then step, log, look and save, always in this order."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from fastmim_jax.data.undecodable import UndecodableRecords
from fastmim_jax.errors import UserError
from fastmim_jax.io import write_json, write_text
from fastmim_jax.saved_config import differences, flatten
from fastmim_jax.train import stage as train_stage
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.held_out import HeldOutLoss, fixed_batches, trivial_losses
from fastmim_jax.train.metrics import Metrics, NullMetrics
from fastmim_jax.train.report import describe, describe_warm_start, read_baselines
from fastmim_jax.train.resize_state import resize_state
from fastmim_jax.train.runs import load_run
from fastmim_jax.train.warm_start import has_checkpoint


class Hook(NamedTuple):
    """Something to do every so many steps, and after the last: look(step, state) -> {name: value}."""

    every: int
    look: Callable


class StopSignal:
    """Turns SIGTERM and Ctrl-C into a wish that the loop sees; a second Ctrl-C interrupts at once."""

    def __enter__(self):
        self.name = None
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        self.name = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pretrain(config, workdir, hooks=(), log=print):
    """Pre-trains, or goes on pre-training, in a work directory.

    Args:
      config: resolved, see `fastmim_jax.config`.
      workdir: made if missing; holds config.json, metrics.jsonl, tensorboard/, checkpoints/, ...
      hooks: functions (run, workdir) -> Hook, called for every stage, for what is shown from above.
      announce: where the lines before the first step go.

    Returns:
      The number of updates done; fewer than planned if a signal stopped the run.

    Raises:
      UserError: bad config, data or work directory; too many bad records or non-finite updates.
    """
    log = log if jax.process_index() == 0 else lambda text: None
    source = train_stage.open_training_data(config)
    saved = None if not config.init or has_checkpoint(workdir) else load_run(config.init)
    runs = train_stage.build_stages(config, len(source), saved=saved)
    begun = describe_warm_start(runs[0], saved) if saved else []
    workdir = prepare_workdir(workdir, config)
    held_out = train_stage.open_held_out_data(config, log)
    for label, text in [*begun, *describe(runs, source, held_out)]:
        log(f"{label:>14}  {text}")

    def looks_of(run, state, log):
        looks = _scale(run, state, source, held_out, workdir, log)
        return looks + [make(run, workdir) for make in hooks]

    return train(runs, config, source, workdir, looks_of, log)


def train(runs, config, source, workdir, looks_of, log):
    """The stages of any training, from the newest checkpoint of the work directory on.

    Args:
      runs: `train_stage.TrainStage` of each stage.
      config: of the whole run, kept in its checkpoints.
      source: the training data.
      workdir: of `prepare_workdir`.
      looks_of: (run, state, say) -> list of Hook, called at the start of every stage.
      say: prints a line, on the first process.

    Returns:
      The number of updates done.
    """
    first, data = jax.process_index() == 0, config.data
    options = dict(keep=config.run.keep, keep_every=config.run.keep_every)
    with Checkpoints(workdir / "checkpoints", **options) as checkpoints, StopSignal() as stop:
        state, step, stage = restore_or_create(runs, checkpoints, log)
        metrics = Metrics(workdir, step, runs[0].plan.total_steps) if first else NullMetrics()
        listed = workdir / ("bad_files.txt" if first else f"bad_files-{jax.process_index()}.txt")
        bad = UndecodableRecords(source, data.max_bad_share, listed, data.channels)
        loop = Loop(flatten(config), checkpoints, metrics, bad, stop)
        try:
            for run in runs[stage:]:
                if run is not runs[stage]:
                    state = _grow(state, run, metrics.log)
                looks = looks_of(run, state, metrics.log)
                state, step = loop.run_from(run, state, step, source, looks)
                if step < run.plan.last_step or stop.name:
                    break
        finally:
            metrics.close()
    log(bad.summary())
    if stop.name and step < runs[0].plan.total_steps:
        log(f"stopped by {stop.name} after step {step:,}; the same command goes on from there")
    return step


class Loop:
    """The loop itself; its parts are given to it."""

    def __init__(self, config, checkpoints, metrics, bad, stop):
        self.config, self.checkpoints, self.metrics = config, checkpoints, metrics
        self.bad, self.stop = bad, stop
        self.run, self.hooks = None, ()  # of the stage that is running
        self.pending = None  # the latest step's metrics, still being computed
        self.seconds, self.images = 0.0, 0  # since the last logged step, without looks and saves

    def run_from(self, run, state, start, source, hooks):
        """Updates of one stage from step `start` on -> the state and the last step done."""
        self.run, self.hooks = run, hooks
        plan, settings = run.plan, run.config.run
        loader = run.loader(
            source,
            batch_size=plan.batch_size,
            seed=run.config.seed,
            start=plan.record(start),
            workers=train_stage.worker_count(settings),
        )
        step = start
        with loader:
            batches = iter(loader)
            while step < plan.last_step and not self._stopping(step):
                began = time.monotonic()
                batch = next(batches)
                state, values = run.step(state, run.to_devices(batch, plan.batch_size))
                step += 1
                for line in self.bad.update(batch):
                    self.metrics.log(f"replaced {line}")
                self._log(step, values, time.monotonic() - began)
                self._look(step, state)
                if self._due(step, settings.checkpoint_every):
                    self._save(step, state)
            self._save(step, state)
        return state, step

    def _stopping(self, step):
        return self.stop.name or self.checkpoints.reached_preemption(step)

    def _due(self, step, every):
        return bool(every) and (step % every == 0 or step == self.run.plan.total_steps)

    def _log(self, step, values, seconds):
        """Queues this step's metrics and writes those of the step before, which are ready by now."""
        self._flush()
        self.seconds, self.images = self.seconds + seconds, self.images + self.run.plan.batch_size
        self.pending = (step, values)

    def _flush(self):
        if self.pending is None:
            return
        (step, values), self.pending = self.pending, None
        began = time.monotonic()
        values = {name: value.item() for name, value in jax.device_get(values).items()}
        self.seconds += time.monotonic() - began
        if values["skipped_in_row"]:
            self.metrics.log(f"step {step}: loss or gradients not finite, update left out")
        if values["skipped_in_row"] >= self.run.config.run.max_skipped:
            raise UserError(
                f"{values['skipped_in_row']} updates in a row were not finite, up to step {step}: lower "
                "--config.optimizer.base_lr, set --config.optimizer.clip_norm=1, or try "
                "float32 as the dtype (the newest checkpoint is from before)"
            )
        if self._due(step, self.run.config.run.log_every):
            values["epoch"] = self.run.plan.epoch(step)
            values["images_per_second"] = self.images / max(self.seconds, 1e-9)
            values["bad_records"] = self.bad.count
            if self.run.plan.stages > 1:
                values["stage"] = self.run.plan.stage + 1
            self.metrics.write(step, values)
            self.metrics.show(step, values)
            self.seconds, self.images = 0.0, 0

    def _look(self, step, state):
        for hook in self.hooks:
            if self._due(step, hook.every):
                self._flush()
                found = hook.look(step, state)
                if found:
                    self.metrics.write(step, found)
                    told = "  ".join(f"{name} {value:.4g}" for name, value in found.items())
                    self.metrics.log(f"step {step:,}  {told}")

    def _save(self, step, state):
        """Everything logged up to here is on disk before the checkpoint that makes it history."""
        self._flush()
        position = {
            "records": self.run.plan.record(step),
            "stage": self.run.plan.stage,
            "config": self.config,
        }
        self.checkpoints.save(step, state, position)


def prepare_workdir(workdir, config):
    """Makes the work directory, or checks that the config in it agrees.

    Raises:
      UserError: it cannot be written to, or was made by another config (says which keys differ).
    """
    workdir = Path(workdir)
    saved = workdir / "config.json"
    if (workdir / "conversion.json").exists():
        raise UserError(
            f"{workdir} holds a converted checkpoint, not a run that can go on: type "
            f"--config.init={workdir} and another --workdir"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        before = json.loads(saved.read_text()) if saved.exists() else None
        if before is not None:
            _check_same(workdir, before, config)
        if jax.process_index() == 0:
            write_text(saved, config.to_json(indent=2) + "\n")
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"cannot use the work directory {workdir} ({error}): type --workdir=DIR with a folder that "
            "can be written to"
        ) from error
    return workdir


def _check_same(workdir, before, config):
    changed = differences(before, config)
    if changed:
        shown = "; ".join(f"config.{key} was {old}, is {new}" for key, old, new in changed[:8])
        more = f" and {len(changed) - 8} more" if len(changed) > 8 else ""
        raise UserError(
            f"{workdir} was begun with another config ({shown}{more}): go on with the old values, or "
            "start anew with another --workdir"
        )


def restore_or_create(runs, checkpoints, log):
    """-> (state, updates done, stage to go on with): the newest checkpoint, or the initial state."""
    latest = checkpoints.latest()
    if latest is None:
        return runs[0].create(), 0, 0
    position = checkpoints.position(latest)
    stage = min(position.get("stage", 0), len(runs) - 1)
    run = runs[stage]
    if position["records"] != run.plan.record(latest):
        raise UserError(
            f"checkpoint {latest} stands at record {position['records']:,}, not at "
            f"{run.plan.record(latest):,} as with batches of {run.plan.batch_size}: it was written with "
            "another batch size or other stages"
        )
    state = checkpoints.restore(latest, run.abstract)
    log(f"{'going on':>14}  after step {latest:,} of {run.plan.total_steps:,}")
    if latest == run.plan.last_step and run is not runs[-1]:
        stage += 1
        state = _grow(state, runs[stage], log)
    return state, latest, stage


def _grow(state, run, log):
    """The state for the next stage, which is announced."""
    state, counts = resize_state(state, run.abstract)
    height, width = run.plan.image_size
    told = ", ".join(f"{count} x {name} resampled" for name, count in counts.items())
    log(
        f"stage {run.plan.stage + 1} of {run.plan.stages}: {height} x {width} pixels from step "
        f"{run.plan.first_step + 1:,}" + (f", {told}" if told else "")
    )
    return state


def _scale(run, state, source, held_out, workdir, log):
    """Tells the losses of trivial predictors (kept in baselines.json) -> hooks for the held-out loss."""
    stages, looks = read_baselines(workdir), []
    baselines = stages[run.plan.stage] if len(stages) > run.plan.stage else {}
    for name, data in (("training", source), ("held-out", held_out)):
        if data is None or (name == "training" and name in baselines):
            continue
        size, batches = fixed_batches(run, data, run.config.data.eval_records)
        if name == "held-out":
            looks.append(Hook(run.config.run.eval_every, HeldOutLoss(run, size, batches)))
        if name not in baselines:
            baselines[name] = trivial_losses(run, state, size, batches)
    stages[run.plan.stage :] = [baselines]
    if jax.process_index() == 0:
        write_json(workdir / "baselines.json", stages, indent=2)
    for name, losses in baselines.items():
        text = ", ".join(f"always {what} {loss:.4f}" for what, loss in losses.items())
        log(f"{'trivial loss':>14}  {text} ({name} images)")
    return looks
