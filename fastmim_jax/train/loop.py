"""The training loop: restore the newest checkpoint, then step, log, call the hooks and save."""

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax

from fastmim_jax.data.clipped import ClippedValues
from fastmim_jax.data.cpus import cpu_share
from fastmim_jax.data.limits import DecodeRules
from fastmim_jax.data.undecodable import UndecodableRecords
from fastmim_jax.errors import UserError
from fastmim_jax.run_folder import list_of_bad_files
from fastmim_jax.saved_config import flatten
from fastmim_jax.train.accumulation import fit_stage, saved_stage
from fastmim_jax.train.accumulation_advice import what_to_type
from fastmim_jax.train.agreement import GivenUp, StopAgreement
from fastmim_jax.train.compilation import compilation_seconds, log_compilation
from fastmim_jax.train.disk_watch import DiskWatch
from fastmim_jax.train.ending import ends_together, leave_at_signal
from fastmim_jax.train.eta import RemainingTime, stage_work
from fastmim_jax.train.hook import Hook
from fastmim_jax.train.memory import free_bytes
from fastmim_jax.train.metrics import Metrics, NullMetrics
from fastmim_jax.train.out_of_memory import refuse_out_of_memory
from fastmim_jax.train.peers import current_peers
from fastmim_jax.train.progress import Clock
from fastmim_jax.train.reading_advice import advise_stage
from fastmim_jax.train.remote.first_process import open_checkpoints
from fastmim_jax.train.remote.workdir import flush_uploads
from fastmim_jax.train.restore import find_start, next_stage, restore_or_create
from fastmim_jax.train.stage import TrainStage
from fastmim_jax.train.state import TrainState
from fastmim_jax.train.stop_signal import Stopped, StopSignal
from fastmim_jax.train.waiting import StepRates, StepTimer, describe_waiting

AnyStage = TypeVar("AnyStage", bound=TrainStage)


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

    Raises:
      Stopped: by a signal, before the last step; the state is saved.
      UserError: the checkpoint does not fit, the disk fails, or the data or the updates are not usable.
    """
    is_first, data, total = jax.process_index() == 0, config.data, stages[0].plan.total_steps
    options = dict(
        keep=config.run.keep, keep_every=config.run.keep_every, verify=config.run.verify_checkpoints
    )
    stages, free = list(stages), free_bytes(stages[0].mesh)
    peers = current_peers()
    tell = peers.tell_stop if peers else lambda name: None
    stopping = StopSignal(config.run.grace_seconds, leave=leave_at_signal, tell=tell)
    opened = open_checkpoints(workdir / "checkpoints", **options)
    with opened as checkpoints, stopping as stop, ends_together():
        if peers:
            peers.on_stop = stop.receive
            if peers.stop_name:  # the signal came before
                stop.receive(peers.stop_name)
        with stop.nothing_to_save(), log_compilation(log):
            start = find_start(stages, checkpoints, log)
            step, first = start.step, start.stage
            stages[first] = _fit(stages[first], step, workdir, free, log)
            with refuse_out_of_memory(partial(what_to_type, stages[first])):
                state = restore_or_create(start, stages, checkpoints, log)
        metrics = Metrics(workdir, step, total, config) if is_first else NullMetrics()
        bad_files = workdir / list_of_bad_files(jax.process_index())
        rules, threads = stages[0].reader.rules, config.run.threads or cpu_share().cpus
        undecodable = UndecodableRecords(
            source, data.max_bad_share, bad_files, data.channels, rules, metrics.log, threads
        )
        clipped = ClippedValues(rules)
        loop = Loop(stages, flatten(config), checkpoints, metrics, undecodable, stop, clipped=clipped)
        try:
            with log_compilation(metrics.log):
                for index in range(first, len(stages)):
                    if index > first:
                        with stop.nothing_to_save():
                            stages[index] = _fit(stages[index], step, workdir, free, metrics.log)
                    with refuse_out_of_memory(partial(what_to_type, stages[index])):
                        with stop.nothing_to_save():
                            if index > first:
                                state = next_stage(state, stages[index], metrics.log)
                            hooks = make_hooks(stages[index], state, metrics.log)
                        first_hook = start.first_hook if index == first else None
                        state, step = loop.run_stage(stages[index], state, step, source, hooks, first_hook)
                    if loop.agreement.stopped:
                        break
            metrics.done = not loop.agreement.stopped
        finally:
            loop.timer.close()
            metrics.close()
    if loop.run_rates.seconds:
        log(describe_waiting(loop.run_rates.wait_share, advise_stage(stages[0], source)))
    log(undecodable.summary())
    if clipped.images:
        log(clipped.summary() or f"no value of {clipped.images:,} images read was outside of the range")
    if stop.name and (step < total or loop.first_hook is not None):
        log(
            f"stopped by {stop.name} after step {step:,}: the current step is saved; rerun the same "
            "command to resume"
        )
        raise Stopped(stop.name, agreed=True, since=stop.since)
    return step


def _fit(stage, step, workdir, free, log):
    """Return a stage with its step compiled, in micro-batches that fit."""
    if step == stage.plan.last_step:
        return saved_stage(stage, workdir)
    return fit_stage(stage, log, workdir, free)


class Loop:
    """The loop over the steps of each stage; its parts are given to it.

    Args:
      stages: all of the run.
      config: flat, stored in checkpoints.
    """

    def __init__(
        self,
        stages: Sequence[TrainStage],
        config: dict[str, Any],
        checkpoints: Any,
        metrics: Metrics | NullMetrics,
        undecodable: Any,
        stop: Any,
        timer: StepTimer | None = None,
        clock: Clock = time.monotonic,
        clipped: ClippedValues | None = None,
    ):
        self.clipped = clipped or ClippedValues(DecodeRules())
        self.config, self.checkpoints, self.metrics = config, checkpoints, metrics
        self.undecodable, self.stop = undecodable, stop
        self.agreement = StopAgreement(stop, current_peers())
        run = stages[0].config.run
        self.disk = DiskWatch(checkpoints, metrics, run.max_failed_saves, run.upload_timeout_seconds)
        self.timer, self.clock = timer or StepTimer(clock), clock
        self.remaining = RemainingTime([stage_work(stage.plan) for stage in stages])
        self.stage: Any = None  # the running one
        self.hooks: Sequence[Hook] = ()
        self.first_hook: int | None = None  # the hook that was given up after the last step
        self.pending: tuple[int, dict] | None = None  # the latest step and its metrics, being computed
        self.start = 0  # the step that this stage was restored at, or begins with
        self.rates, self.run_rates = StepRates(), StepRates()  # since the last logged step, of all steps

    def run_stage(
        self,
        stage: TrainStage,
        state: TrainState,
        start: int,
        source: Any,
        hooks: Sequence[Hook],
        first_hook: int | None = None,
    ) -> tuple[TrainState, int]:
        """Train one stage from step `start` on; return the state and the last step done.

        Args:
          first_hook: number of the first hook to call after step `start`, which a signal kept from it; None
            if all were called.
        """
        self.stage, self.hooks, self.start = stage, hooks, start
        self.timer.start()
        self.remaining.start_stage()
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
            if first_hook is not None:
                self._call_hooks(step, state, first_hook)
            while step < plan.last_step and not self._ended(step) and self.agreement.begin():
                self._check_disk(step, state)
                with self._rescued(step, state):
                    batch, arrays = self._next_batch(batches)
                    for line in self.undecodable.update(batch):
                        self.metrics.log(line)
                self.clipped.update(batch)
                state, values = stage.step(state, arrays)
                self.timer.dispatched(values)
                step += 1
                self._flush()
                self.pending = (step, values)
                self._call_hooks(step, state)
                if self._due(step, settings.checkpoint_every):
                    self._save(step, state)
            self.agreement.end_stage()
            self._save(step, state)
            self.disk.check_last_save()
        return state, step

    def _next_batch(self, batches):
        """Return the next batch of this process, and the arrays of the global batch on the devices."""
        self.timer.ask()
        batch = next(batches)
        arrays = self.stage.to_devices(batch, self.stage.plan.batch_size)
        self.timer.have()
        return batch, arrays

    def _ended(self, step):
        return any(hook.ended(step) for hook in self.hooks)

    def _due(self, step, every):
        return bool(every) and (step % every == 0 or step == self.stage.plan.total_steps)

    def _flush(self):
        """Write and show the metrics of the pending step, which ends while the next one is dispatched."""
        if self.pending is None:
            return
        (step, values), self.pending = self.pending, None
        values = {name: value.item() for name, value in jax.device_get(values).items()}
        self._add_time(step)
        self._check_finite(step, values["skipped_in_row"])
        values["epoch"] = self.stage.plan.epoch(step)
        values |= self.rates.values()
        values["bad_records"] = self.undecodable.count
        values |= self.clipped.metrics()
        if self.stage.plan.stages > 1:
            values["stage"] = self.stage.plan.stage + 1
        if self._due(step, self.stage.config.run.log_every):
            self.metrics.write(step, values)
            self.rates = StepRates()
        self.metrics.show(step, values, self.remaining.seconds(step))

    def _add_time(self, step):
        times = self.timer.finished()
        for rates in (self.rates, self.run_rates):
            rates.add(times, self.stage.plan.batch_size)
        if not times.first:
            self.remaining.add_step(step, times.seconds)

    def _check_finite(self, step, skipped_in_row):
        if skipped_in_row:
            self.metrics.log(f"step {step}: loss or gradients not finite, update skipped")
        if skipped_in_row >= self.stage.config.run.max_skipped:
            raise UserError(
                f"{skipped_in_row} updates in a row were not finite, up to step {step}: lower "
                "--config.optimizer.base_lr, set --config.optimizer.clip_norm=1, or try "
                "float32 as the dtype (the newest checkpoint is from before)"
            )

    def _call_hooks(self, step, state, first=0):
        """Call the hooks that are due, from number `first` on, until the processes give one up."""
        for number, hook in enumerate(self.hooks):
            if number < first or not self._due(step, hook.every):
                continue
            try:
                with (
                    self._between_steps(
                        f"evaluation after step {step:,}", ("hook", number), hook.every, step
                    ),
                    self._rescued(step, state, number),
                    self.agreement.evaluation(),
                ):
                    found = hook.function(step, state)
            except GivenUp:
                self.first_hook = number
                self.metrics.log(
                    f"step {step:,}: the evaluation is given up, and repeated by the next start"
                )
                return
            self.metrics.write_results(step, found)

    def _save(self, step, state):
        """Flush metrics before saving the checkpoint."""
        every = self.stage.config.run.checkpoint_every or self.stage.plan.total_steps
        with self._between_steps(f"checkpoint of step {step:,}", "checkpoint", every, step):
            self.checkpoints.save(step, state, self._position(step, self.first_hook))

    def _position(self, step, first_hook=None):
        plan = self.stage.plan
        position = {"records": plan.record(step), "stage": plan.stage, "config": self.config}
        return position | ({} if first_hook is None else {"first_hook": first_hook})

    @contextlib.contextmanager
    def _rescued(self, step, state, hook=None):
        """Save the state, of a whole step, after a signal or where a UserError ends the block."""
        if jax.process_count() > 1:  # several processes can only save together
            yield
            return
        save = partial(self._rescue, step, state, hook)
        try:
            with self.stop.rescued_by(save):
                yield
        except UserError:
            if step > self.start:
                self._flush()
                self.metrics.flush()
                save()
                self.disk.print_last_save(step)
            raise

    def _rescue(self, step, state, hook):
        """Save where the loop cannot; hook: number of the one that the next start calls again."""
        self.checkpoints.save(step, state, self._position(step, hook))
        self.checkpoints.wait()
        flush_uploads(self.stage.config.run.grace_seconds / 2)

    def _check_disk(self, step, state):
        """Raise a UserError if files could not be written for too long; see `DiskWatch`."""
        self.disk.check(partial(self.checkpoints.save, step, state, self._position(step)))

    @contextlib.contextmanager
    def _between_steps(self, activity, name, every, step):
        """Flush metrics, and time something that is no part of a step; compilation does not count."""
        self._flush()
        self.metrics.flush()
        self.metrics.begin(activity)
        began, compiling = self.clock(), compilation_seconds()
        yield
        seconds = self.clock() - began - (compilation_seconds() - compiling)
        self.remaining.add_event(name, every, max(0.0, seconds))
        self.timer.resume()
        self.metrics.begin(f"step {step + 1:,}")
