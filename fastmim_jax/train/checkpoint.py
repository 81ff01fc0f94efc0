"""Checkpoints: state, position in the data and config as one unit, written while training goes on."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from fastmim_jax.errors import UserError

# What evaluations look at is an item of its own, so that later readers need not know the optimizer.
PARAMS = {
    "params": "params",
    "collections": "collections",
    "average": "ema",
}  # name on disk -> in TrainState
REST = ("step", "opt_state", "skipped", "skipped_in_row")


class Checkpoints:
    """The `checkpoints/` folder of a work directory.

    Args:
      directory: where to; made when first written to.
      keep: how many of the newest to keep.
      keep_every: those at multiples of this step stay for good; 0 for none.
    """

    def __init__(self, directory, keep=3, keep_every=0):
        policies = ocp.checkpoint_managers.preservation_policy
        kept = [policies.LatestN(keep)]
        if keep_every:
            kept.append(policies.EveryNSteps(keep_every))
        self.directory = Path(directory).absolute()
        # Managers that write at the same time would take one another's barriers for their own.
        processes = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=self.directory.name)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept), multiprocessing_options=processes
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest(self):
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, step, state, position, items=("params", "rest")):
        """Starts to write; returns as soon as the values are off the devices.

        position: JSON dict, such as {"records": ..., "config": ...}.
        items: without "rest" the state can be looked at, but not trained on.
        """
        if step == self.latest():
            return
        trees = _items(state)
        saved = {name: ocp.args.StandardSave(trees[name]) for name in items}
        saved["position"] = ocp.args.JsonSave(position)
        self._manager.save(step, args=ocp.args.Composite(**saved))

    def restore(self, step, abstract):
        """The state of a step, laid out as the shardings of the abstract state say."""
        found = self._restore(step, _items(abstract))
        return abstract.replace(**_fields(found.params), **found.rest)

    def position(self, step):
        """The JSON dict that was saved with a step."""
        return self._restore(step, {}).position

    def restore_params(self, step, abstract):
        """The abstract state with its parameters and collections restored; no optimizer is read."""
        found = self._restore(step, {"params": _items(abstract)["params"]})
        return abstract.replace(**_fields(found.params))

    def read_params(self, step, sharding):
        """{"params", "collections", maybe "average"} of a step, whatever its model, all laid out alike."""
        self._check_step(step)
        saved = ocp.StandardCheckpointHandler().metadata(self.directory / str(step) / "params").tree
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), saved)
        return self._restore(step, {"params": abstract}).params

    def _check_step(self, step):
        there = self._manager.all_steps()
        if step not in there:
            steps = ", ".join(map(str, sorted(there))) or "none"
            raise UserError(f"{self.directory} has no checkpoint of step {step}: there is {steps}")

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

    def reached_preemption(self, step):
        """Whether the cluster has told the processes of this run to stop after this step."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def close(self):
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _items(state):
    """The trees that a state is saved as; averages where there are any, as older ones have none."""
    params = {name: getattr(state, field) for name, field in PARAMS.items()}
    if not state.ema:
        del params["average"]
    return {"params": params, "rest": {name: getattr(state, name) for name in REST}}


def _fields(saved):
    """Keyword arguments of TrainState from the trees of the item "params"."""
    return {PARAMS[name]: tree for name, tree in saved.items()}
