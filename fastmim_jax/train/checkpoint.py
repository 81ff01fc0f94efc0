"""Checkpoints: state, position in the data and config as one unit, written asynchronously and verified."""

import dataclasses
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from fastmim_jax.errors import UserError, describe_failure
from fastmim_jax.train import checksums
from fastmim_jax.train.position import check_position
from fastmim_jax.train.state import TrainState

# The evaluated trees are an item of their own: readers need not know the optimizer.
PARAMS = {
    "params": "params",
    "collections": "collections",
    "average": "ema",
}  # name on disk -> in TrainState
REST = ("step", "opt_state", "skipped", "skipped_in_row")
# Orbax and TensorStore raise these where a disk is full, gone or broken.
SAVE_ERRORS = (OSError, ValueError, RuntimeError)


ITEMS = ("params", "rest", "position")
SUCCESS, SUCCESS_TEXT = "commit_success.txt", "Checkpoint commit was successful\n"  # Orbax adds local paths
TEMPORARY = ".orbax-checkpoint-tmp"  # in the name of a checkpoint that is being written


class Damage(NamedTuple):
    """A checkpoint that cannot be used, and what is wrong with it."""

    step: int
    problem: str


class Found(NamedTuple):
    """The newest whole checkpoint.

    step: None if there is none. verified: False if it has no checksums. damaged: newer ones, newest first.
    """

    step: int | None
    verified: bool
    damaged: list[Damage]


def describe_damage(directory: Path, found: Found) -> list[str]:
    """Return a sentence for every damaged checkpoint, and one if the newest whole one is not verified."""
    lines = []
    for step, problem in found.damaged:
        cost = (
            ""
            if found.step is None
            else f": step {found.step:,} is used, {step - found.step:,} steps older"
        )
        lines.append(f"checkpoint {directory / str(step)} is damaged ({problem}){cost}")
    if found.step is not None and not found.verified:
        lines.append(
            f"checkpoint {directory / str(found.step)} has no {checksums.FILE}: it is not verified"
        )
    return lines


class FailedSave(NamedTuple):
    """A checkpoint that could not be written, and why."""

    step: int
    reason: str


class Checkpoints:
    """The `checkpoints/` folder of a work directory.

    A checkpoint becomes visible when it is complete, with SHA-256 sums of its files (`SHA256SUMS`). Older
    ones are deleted only after that.

    Args:
      directory: created at the first save.
      keep: number of newest checkpoints to keep.
      keep_every: checkpoints at multiples of this step are never deleted; 0 for none.
      verify: whether reading compares the files with their sums: about 1 s a GB.
      alone: this process, the first, writes and reads without the others of its run.
    """

    def __init__(
        self,
        directory: str | Path,
        keep: int = 3,
        keep_every: int = 0,
        verify: bool = True,
        alone: bool = False,
    ):
        policies = ocp.checkpoint_managers.preservation_policy
        preserved = [policies.LatestN(keep)]
        if keep_every:
            preserved.append(policies.EveryNSteps(keep_every))
        self.directory = Path(directory).absolute()
        # Unique barrier prefix: concurrent managers would deadlock.
        processes = ocp.options.MultiprocessingOptions(
            active_processes={0} if alone else None, barrier_sync_key_prefix=self.directory.name
        )
        self._processes = 1 if alone else jax.process_count()
        if alone:  # Orbax makes the folder only where all processes take part
            self.directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(preserved),
            multiprocessing_options=processes,
            create=not alone,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_checksums),
        )
        # With names, Orbax does not guess the items from whatever lies in the newest folder.
        self._manager = ocp.CheckpointManager(self.directory, item_names=ITEMS, options=options)
        self._verify = verify
        self._seen = self.directory.exists()
        self._saving: int | None = None  # the step being written
        self._watch: threading.Thread | None = None  # waits for the end of the save
        self._failures: list[FailedSave] = []  # not taken yet
        self.failed_in_a_row = 0

    def latest(self) -> int | None:
        """Return the newest complete step, or None; its files are not verified."""
        return self._manager.latest_step()

    def newest_written(self) -> int | None:
        """Return the newest step that is on disk: not one that is being written, or has failed."""
        steps = [step for step in self._manager.all_steps() if (self.directory / str(step)).is_dir()]
        return max(steps, default=None)

    def find_whole(self) -> Found:
        """Return the newest step whose files are as they were written; every process gets the same one."""
        damaged: list[Damage] = []
        whole = None
        if jax.process_index() == 0:
            for step in sorted(self._manager.all_steps(), reverse=True):
                problem = self.find_damage(step)
                if not problem:
                    whole = step
                    break
                damaged.append(Damage(step, problem))
        if self._processes > 1:
            shared = multihost_utils.broadcast_one_to_all(np.int32(-1 if whole is None else whole))
            whole = None if shared < 0 else int(shared)
        verified = whole is not None and checksums.has_checksums(self.directory / str(whole))
        return Found(whole, verified, damaged)

    def find_damage(self, step: int) -> str:
        """Return what is wrong with the files of a step, or an empty string."""
        folder = self.directory / str(step)
        if checksums.has_checksums(folder):
            return checksums.find_damage(folder) if self._verify else ""
        try:
            self.position(step)
        except UserError:
            return "its position cannot be read"
        return ""

    def set_aside(self, damaged: Sequence[Damage]) -> None:
        """Rename damaged checkpoints to damaged-STEP, and delete what an interrupted save has left."""
        if jax.process_index() == 0:
            for step, _ in damaged:
                _rename_free(self.directory / str(step), f"damaged-{step}")
            self._remove_unfinished()
        if self._processes > 1:
            multihost_utils.sync_global_devices("fastmim set_aside")
        self._manager.reload()

    def save(
        self, step: int, state: TrainState, position: dict, items: Sequence[str] = ("params", "rest")
    ) -> None:
        """Start to write a checkpoint; returns as soon as the values have left the devices.

        A save that fails raises nothing: see `take_failures`.

        Args:
          position: JSON dict, such as {"records": ..., "config": ...}.
          items: without "rest" the state can be evaluated, but training cannot resume from it.
        """
        self.wait()
        if step == self.latest():
            return
        if self._seen and not self.directory.exists():
            self._fail(step, FileNotFoundError(f"{self.directory} is gone"))
            return
        if self.failed_in_a_row and jax.process_index() == 0:
            self._remove_unfinished()  # again: Orbax's threads may have written on after the failure
        trees = _items(state)
        arguments = {name: ocp.args.StandardSave(trees[name]) for name in items}
        arguments["position"] = ocp.args.JsonSave(position)
        self._saving = step
        try:
            self._manager.save(step, args=ocp.args.Composite(**arguments))
        except SAVE_ERRORS as error:
            self._fail(step, error)
            return
        self._watch = threading.Thread(
            target=self._await_save, args=(step,), name="checkpoint", daemon=True
        )
        self._watch.start()

    def take_failures(self) -> list[FailedSave]:
        """Return the saves that have failed since the last call."""
        taken, self._failures = self._failures, []
        return taken

    def check_saved(self) -> None:
        """Wait until the save that runs has ended.

        Raises:
          UserError: a checkpoint could not be written.
        """
        self.wait()
        for step, reason in self.take_failures():
            raise UserError(f"the checkpoint {self.directory / str(step)} could not be written: {reason}")

    def wait(self) -> None:
        """Wait until the save that runs has ended, well or not."""
        if self._watch is not None:
            self._watch.join()
            self._watch = None
            try:
                self._manager.wait_until_finished()  # raises once in every thread
            except SAVE_ERRORS:
                pass  # `_await_save` has seen it too

    def _await_save(self, step: int) -> None:
        """Wait for the end of a save, in a thread of its own."""
        try:
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                folder = self.directory / str(step)
                (folder / SUCCESS).write_text(SUCCESS_TEXT)
                checksums.add_checksums(folder, checksums.WRITTEN_LAST)
        except SAVE_ERRORS as error:
            self._fail(step, error)
        else:
            self.failed_in_a_row = 0

    def _fail(self, step: int, error: Exception) -> None:
        self.failed_in_a_row += 1
        if jax.process_index() == 0:
            self._remove_unfinished()
        # Orbax 0.12.8 forgets older checkpoints that the failed one would have replaced.
        self._manager.reload()
        self._failures.append(FailedSave(step, describe_failure(error)))

    def _write_checksums(self) -> None:
        """Write the sums into the folder that Orbax is about to rename; runs in Orbax's thread."""
        folders = [*self.directory.glob(f"{self._saving}{TEMPORARY}*"), self.directory / str(self._saving)]
        for note in folders[0].rglob(SUCCESS):
            note.write_text(SUCCESS_TEXT)
        checksums.write_checksums(folders[0], leave_out=checksums.WRITTEN_LAST)

    def _remove_unfinished(self) -> None:
        for folder in self.directory.glob(f"*{TEMPORARY}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """Return the state of a step, sharded like the abstract state."""
        found = self._restore(step, _items(abstract))
        return dataclasses.replace(abstract, **_fields(found.params), **found.rest)

    def position(self, step: int) -> dict:
        """Return the JSON dict saved with a step.

        Raises:
          UserError: it cannot be read, or a value has another type than it was written with.
        """
        return check_position(self._restore(step, {}).position, self.directory / str(step))

    def restore_params(self, step: int, abstract: TrainState) -> TrainState:
        """Return the abstract state with parameters and collections restored, but no optimizer state."""
        found = self._restore(step, {"params": _items(abstract)["params"]})
        return dataclasses.replace(abstract, **_fields(found.params))

    def read_params(self, step: int, sharding: jax.sharding.Sharding) -> dict[str, Any]:
        """Return {"params", "collections", maybe "average"} of a step, of any model, in one sharding."""
        self._check_step(step)
        saved = ocp.StandardCheckpointHandler().metadata(self.directory / str(step) / "params").tree
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), saved)
        return self._restore(step, {"params": abstract}).params

    def check_whole(self, step: int) -> None:
        """Raise a UserError if there is no such step, or its files are not as they were written."""
        self._check_step(step)
        problem = self.find_damage(step)
        if problem:
            raise UserError(
                f"checkpoint {self.directory / str(step)} is damaged ({problem}): leave out --step to use "
                "the newest whole one"
            )

    def _check_step(self, step):
        steps = self._manager.all_steps()
        if step not in steps:
            choice = ", ".join(map(str, sorted(steps))) or "none"
            raise UserError(f"{self.directory} has no checkpoint of step {step}: choose from: {choice}")

    def _restore(self, step, items):
        self._check_step(step)
        arguments = {name: ocp.args.StandardRestore(tree) for name, tree in items.items()}
        try:
            return self._manager.restore(
                step, args=ocp.args.Composite(position=ocp.args.JsonRestore(), **arguments)
            )
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise UserError(
                f"checkpoint {self.directory / str(step)} does not fit the model of this config "
                f"({str(error).splitlines()[0]}): use the config that wrote it, or delete the checkpoint"
            ) from error

    def close(self) -> None:
        """Wait until everything is on disk, or has failed to be."""
        self.wait()
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _rename_free(path: Path, name: str) -> None:
    """Rename a path, with a number after the name if that is taken."""
    number = 0
    while os.path.lexists(target := path.with_name(f"{name}-{number}" if number else name)):
        number += 1
    path.rename(target)


def _items(state):
    """Return the trees that a state is saved as, without averages if it has none."""
    params = {name: getattr(state, field) for name, field in PARAMS.items()}
    if not state.ema:
        del params["average"]
    return {"params": params, "rest": {name: getattr(state, name) for name in REST}}


def _fields(trees):
    """Return keyword arguments of TrainState from the trees of the item "params"."""
    return {PARAMS[name]: tree for name, tree in trees.items()}
