"""How a run begins from what another has learned: `config.init`."""

from pathlib import Path

import jax

from fastmim_jax.train import state
from fastmim_jax.train.transfer import transfer


def has_checkpoint(workdir):
    """Whether a work directory has one to go on from, so that the start is of no concern any more."""
    checkpoints = Path(workdir) / "checkpoints"
    # Until a checkpoint is complete, there is only a folder, and the start has still to be read.
    return checkpoints.exists() and any(path.name.isdigit() for path in checkpoints.iterdir())


def warm_start(variables, begun, optimizer_of, abstract, schemes=None):
    """The initial state with what fits of other variables in the place of its own.

    Args:
      variables: {"params": nested, ...}, of a method or classifier.
      begun: the initial TrainState.
      optimizer_of: as of `state.initializer`.
      abstract: the same state as ShapeDtypeStructs with shardings.
      schemes: as of `transfer`.
    """

    def run(variables, begun):
        found, _ = _take(variables, begun, schemes)
        return state.begin(found, optimizer_of, bool(begun.ema))

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(run, out_shardings=shardings)(variables, begun)


def report(variables, abstract, schemes=None):
    """What `warm_start` would load, a `transfer.Report`; nothing is computed."""
    reports = []

    def shapes(variables, begun):
        found, told = _take(variables, begun, schemes)
        reports.append(told)
        return found

    jax.eval_shape(shapes, variables, abstract)
    return reports[0]


def _take(variables, begun, schemes):
    return transfer(variables, {"params": begun.params, **begun.collections}, schemes)
