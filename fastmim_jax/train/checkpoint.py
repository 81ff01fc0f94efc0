"""Checkpoints: state, position in the data and config as one unit, written asynchronously."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from fastmim_jax.errors import UserError
from fastmim_jax.train.state import TrainState

# The evaluated trees are an item of their own: readers need not know the optimizer.
PARAMS = {
    "params": "params",
    "collections": "collections",
    "average": "ema",
}  # name on disk -> in TrainState
REST = ("step", "opt_state", "skipped", "skipped_in_row")


class Checkpoints:
    """The `checkpoints/` folder of a work directory.

    Args:
      directory: created at the first save.
      keep: number of newest checkpoints to keep.
      keep_every: checkpoints at multiples of this step are never deleted; 0 for none.
    """

    def __init__(self, directory: str | Path, keep: int = 3, keep_every: int = 0):
        policies = ocp.checkpoint_managers.preservation_policy
        preserved = [policies.LatestN(keep)]
        if keep_every:
            preserved.append(policies.EveryNSteps(keep_every))
        self.directory = Path(directory).absolute()
        # Unique barrier prefix: concurrent managers would deadlock.
        processes = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=self.directory.name)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(preserved), multiprocessing_options=processes
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest(self) -> int | None:
        """Return the newest complete step, or None."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: TrainState, position: dict, items: Sequence[str] = ("params", "rest")
    ) -> None:
        """Start to write a checkpoint; returns as soon as the values have left the devices.

        Args:
          position: JSON dict, such as {"records": ..., "config": ...}.
          items: without "rest" the state can be evaluated, but training cannot resume from it.
        """
        if step == self.latest():
            return
        trees = _items(state)
        arguments = {name: ocp.args.StandardSave(trees[name]) for name in items}
        arguments["position"] = ocp.args.JsonSave(position)
        self._manager.save(step, args=ocp.args.Composite(**arguments))

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """Return the state of a step, sharded like the abstract state."""
        found = self._restore(step, _items(abstract))
        return dataclasses.replace(abstract, **_fields(found.params), **found.rest)

    def position(self, step: int) -> dict:
        """Return the JSON dict saved with a step."""
        return self._restore(step, {}).position

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

    def reached_preemption(self, step: int) -> bool:
        """Return whether the cluster asks the processes of this run to stop after this step."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _items(state):
    """Return the trees that a state is saved as, without averages if it has none."""
    params = {name: getattr(state, field) for name, field in PARAMS.items()}
    if not state.ema:
        del params["average"]
    return {"params": params, "rest": {name: getattr(state, name) for name in REST}}


def _fields(trees):
    """Return keyword arguments of TrainState from the trees of the item "params"."""
    return {PARAMS[name]: tree for name, tree in trees.items()}
