"""The training loop: restore the newest checkpoint, then step, log, call the hooks and save."""

import json
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from fastmim_jax.data.undecodable import UndecodableRecords
from fastmim_jax.errors import UserError
from fastmim_jax.io import write_text
from fastmim_jax.saved_config import differences, flatten
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.compilation import log_compilation
from fastmim_jax.train.metrics import Metrics, NullMetrics
from fastmim_jax.train.resize_state import resize_state
from fastmim_jax.train.stage import TrainStage
from fastmim_jax.train.state import TrainState

AnyStage = TypeVar("AnyStage", bound=TrainStage)


class Hook(NamedTuple):
    """A function to call every `every` steps and after the last, (step, state) -> {name: value} or None."""

    every: int
    function: Callable[[int, TrainState], dict[str, float] | None]


class StopSignal:
    """Record SIGTERM or Ctrl-C for the loop to stop at; a second Ctrl-C interrupts at once."""

    def __enter__(self):
        self.name = None
        self._before = {s: signal.signal(s, self._record) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _record(self, number, _):
        self.name = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)


def train(
    stages: Sequence[AnyStage],
    config: Any,
    source: Any,
    workdir: Path,
    make_hooks: Callable[[AnyStage, TrainState, Callable], list[Hook]],
    log: Callable[[str], None],
) -> int:
    """Train all stages of a run, from the newest checkpoint of the work directory on.

    Args:
      stages: of the run, in order.
      config: of the run, stored in its checkpoints.
      source: the training data.
      workdir: see `prepare_workdir`.
      make_hooks: (stage, state, log) -> hooks, called at the start of every stage.
      log: prints a line, on the first process.

    Returns:
      The number of updates done.
    """
    is_first, data, total = jax.process_index() == 0, config.data, stages[0].plan.total_steps
    options = dict(keep=config.run.keep, keep_every=config.run.keep_every)
    with Checkpoints(workdir / "checkpoints", **options) as checkpoints, StopSignal() as stop:
        state, step, first = restore_or_create(stages, checkpoints, log)
        metrics = Metrics(workdir, step, total) if is_first else NullMetrics()
        bad_files = workdir / ("bad_files.txt" if is_first else f"bad_files-{jax.process_index()}.txt")
        undecodable = UndecodableRecords(source, data.max_bad_share, bad_files, data.channels)
        loop = Loop(flatten(config), checkpoints, metrics, undecodable, stop)
        try:
            with log_compilation(metrics.log):
                for index, stage in enumerate(stages[first:]):
                    if index:
                        state = _next_stage(state, stage, metrics.log)
                    hooks = make_hooks(stage, state, metrics.log)
                    state, step = loop.run_stage(stage, state, step, source, hooks)
                    if step < stage.plan.last_step or stop.name:
                        break
        finally:
            metrics.close()
    log(undecodable.summary())
    if stop.name and step < total:
        log(
            f"stopped by {stop.name} after step {step:,}: the current step is saved; rerun the same "
            "command to resume"
        )
    return step


class Loop:
    """The loop over the steps of each stage; its parts are given to it."""

    def __init__(self, config, checkpoints, metrics, undecodable, stop):
        self.config, self.checkpoints, self.metrics = config, checkpoints, metrics
        self.undecodable, self.stop = undecodable, stop
        self.stage, self.hooks = None, ()  # the running stage
        self.pending = None  # the latest step's metrics, still being computed
        self.seconds, self.images = 0.0, 0  # since the last logged step, without hooks and checkpoints

    def run_stage(
        self, stage: TrainStage, state: TrainState, start: int, source: Any, hooks: Sequence[Hook]
    ) -> tuple[TrainState, int]:
        """Train one stage from step `start` on; return the state and the last step done."""
        self.stage, self.hooks = stage, hooks
        plan, settings = stage.plan, stage.config.run
        loader = stage.loader(
            source,
            batch_size=plan.batch_size,
            seed=stage.config.seed,
            start=plan.record(start),
            workers=stage.reader.workers,
        )
        step = start
        with loader:
            batches = iter(loader)
            while step < plan.last_step and not self._stopping(step):
                began = time.monotonic()
                batch = next(batches)
                state, values = stage.step(state, stage.to_devices(batch, plan.batch_size))
                step += 1
                for line in self.undecodable.update(batch):
                    self.metrics.log(f"replaced {line}")
                self._log(step, values, time.monotonic() - began)
                self._call_hooks(step, state)
                if self._due(step, settings.checkpoint_every):
                    self._save(step, state)
            self._save(step, state)
        return state, step

    def _stopping(self, step):
        return self.stop.name or self.checkpoints.reached_preemption(step)

    def _due(self, step, every):
        return bool(every) and (step % every == 0 or step == self.stage.plan.total_steps)

    def _log(self, step, values, seconds):
        """Queue this step's metrics and write those of the step before, which are ready by now."""
        self._flush()
        self.seconds, self.images = self.seconds + seconds, self.images + self.stage.plan.batch_size
        self.pending = (step, values)

    def _flush(self):
        if self.pending is None:
            return
        (step, values), self.pending = self.pending, None
        began = time.monotonic()
        values = {name: value.item() for name, value in jax.device_get(values).items()}
        self.seconds += time.monotonic() - began
        self._check_finite(step, values["skipped_in_row"])
        if self._due(step, self.stage.config.run.log_every):
            values["epoch"] = self.stage.plan.epoch(step)
            values["images_per_second"] = self.images / max(self.seconds, 1e-9)
            values["bad_records"] = self.undecodable.count
            if self.stage.plan.stages > 1:
                values["stage"] = self.stage.plan.stage + 1
            self.metrics.write(step, values)
            self.metrics.show(step, values)
            self.seconds, self.images = 0.0, 0

    def _check_finite(self, step, skipped_in_row):
        if skipped_in_row:
            self.metrics.log(f"step {step}: loss or gradients not finite, update skipped")
        if skipped_in_row >= self.stage.config.run.max_skipped:
            raise UserError(
                f"{skipped_in_row} updates in a row were not finite, up to step {step}: lower "
                "--config.optimizer.base_lr, set --config.optimizer.clip_norm=1, or try "
                "float32 as the dtype (the newest checkpoint is from before)"
            )

    def _call_hooks(self, step, state):
        for hook in self.hooks:
            if self._due(step, hook.every):
                self._flush()
                values = hook.function(step, state)
                if values:
                    self.metrics.write(step, values)
                    text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
                    self.metrics.log(f"step {step:,}  {text}")

    def _save(self, step, state):
        """Flush metrics before saving the checkpoint."""
        self._flush()
        position = {
            "records": self.stage.plan.record(step),
            "stage": self.stage.plan.stage,
            "config": self.config,
        }
        self.checkpoints.save(step, state, position)


def prepare_workdir(workdir: str | Path, config: Any) -> Path:
    """Make the work directory, or check that the config in it agrees.

    Raises:
      UserError: it cannot be written to, or holds another config (the message names the keys).
    """
    workdir = Path(workdir)
    config_file = workdir / "config.json"
    if (workdir / "conversion.json").exists():
        raise UserError(
            f"{workdir} holds a converted checkpoint, which has no training to resume: type "
            f"--config.init={workdir} and another --workdir"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if config_file.exists():
            _check_same(workdir, json.loads(config_file.read_text()), config)
        if jax.process_index() == 0:
            write_text(config_file, config.to_json(indent=2) + "\n")
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
            f"{workdir} was started with another config ({shown}{more}): resume with the old values, or "
            "type another --workdir"
        )


def restore_or_create(
    stages: Sequence[TrainStage], checkpoints: Checkpoints, log: Callable[[str], None]
) -> tuple[TrainState, int, int]:
    """Restore the newest checkpoint, or create the initial state.

    Returns:
      The state, the number of updates done, and the index of the stage to train next.

    Raises:
      UserError: the checkpoint does not fit the stages.
    """
    latest = checkpoints.latest()
    if latest is None:
        return stages[0].create(), 0, 0
    position = checkpoints.position(latest)
    index = min(position.get("stage", 0), len(stages) - 1)
    plan = stages[index].plan
    if position["records"] != plan.record(latest):
        raise UserError(
            f"checkpoint {latest} was saved at record {position['records']:,}, not at "
            f"{plan.record(latest):,} as with batches of {plan.batch_size}: it was written with "
            "another batch size or other stages"
        )
    state = checkpoints.restore(latest, stages[index].abstract)
    log(f"resuming at step {latest:,} of {plan.total_steps:,}")
    if latest == plan.last_step and index < len(stages) - 1:
        index += 1
        state = _next_stage(state, stages[index], log)
    return state, latest, index


def _next_stage(state, stage, log):
    """Return the state in the shapes of the next stage, and log the switch."""
    state, counts = resize_state(state, stage.abstract)
    plan = stage.plan
    height, width = plan.image_size
    resampled = "".join(f", {count} x {name} resampled" for name, count in counts.items())
    log(
        f"stage {plan.stage + 1} of {plan.stages}: {height} x {width} pixels from step "
        f"{plan.first_step + 1:,}{resampled}"
    )
    return state
