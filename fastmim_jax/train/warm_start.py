"""Start a run from the parameters of another one: `config.init`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from fastmim_jax.train import state
from fastmim_jax.train.state import TrainState
from fastmim_jax.train.transfer import TransferReport, transfer


def has_checkpoint(workdir: str | Path) -> bool:
    """Return whether a work directory has a checkpoint to resume from; it then needs no `config.init`."""
    checkpoints = Path(workdir) / "checkpoints"
    # An incomplete checkpoint is a folder with another name.
    return checkpoints.exists() and any(path.name.isdecimal() for path in checkpoints.iterdir())


def warm_start(
    variables: Mapping[str, Any],
    initial: TrainState,
    optimizer_of: Callable,
    abstract: TrainState,
    schemes: Mapping[str, Any] | None = None,
) -> TrainState:
    """Return the initial state with the parameters of another model, where they fit.

    Args:
      variables: {"params": nested, ...} of a method or classifier.
      initial: the state with its own initial parameters.
      optimizer_of: see `state.Initializer`.
      abstract: the same state as ShapeDtypeStructs with shardings.
      schemes: see `transfer`.
    """

    def start(variables, initial):
        merged, _ = _merge(variables, initial, schemes)
        return state.initial_state(merged, optimizer_of, bool(initial.ema))

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(start, out_shardings=shardings)(variables, initial)


def transfer_report(
    variables: Mapping[str, Any], abstract: TrainState, schemes: Mapping[str, Any] | None = None
) -> TransferReport:
    """Return which parameters `warm_start` would load; nothing is computed.

    Raises:
      UserError: see `transfer`.
    """
    reports = []

    def trace(variables, initial):
        merged, report = _merge(variables, initial, schemes)
        reports.append(report)
        return merged

    jax.eval_shape(trace, variables, abstract)
    return reports[0]


def _merge(variables, initial, schemes):
    return transfer(variables, {"params": initial.params, **initial.collections}, schemes)
