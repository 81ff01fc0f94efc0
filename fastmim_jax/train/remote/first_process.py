"""Checkpoints of a run whose processes share no folder: the first one writes and reads them all."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fastmim_jax.errors import UserError
from fastmim_jax.train.checkpoint import PARAMS, REST, Checkpoints, Damage, FailedSave, Found
from fastmim_jax.train.peers import Peers, current_peers
from fastmim_jax.train.remote.workdir import has_own_copy
from fastmim_jax.train.state import TrainState


def open_checkpoints(directory: str | Path, **options: Any) -> Any:
    """Return `Checkpoints` as the processes of a run can write them; options: those of `Checkpoints`."""
    peers = current_peers()
    if peers is None or not has_own_copy():
        return Checkpoints(directory, **options)
    return FirstProcessCheckpoints(Path(directory), peers, options)


class FirstProcessCheckpoints:
    """As `Checkpoints`, for processes that share no folder; every process calls the same methods.

    The state is gathered leaf by leaf in the memory of the first process's host, and sent leaf by leaf when
    it is read.

    Args:
      directory: of the first process; the others have none.
      peers: of the run.
      options: of `Checkpoints`.
    """

    def __init__(self, directory: Path, peers: Peers, options: dict[str, Any]):
        self.directory, self._peers = directory, peers
        self._own = None if peers.process else Checkpoints(directory, **options, alone=True)

    @property
    def failed_in_a_row(self) -> int:
        """Number of saves that have failed since the last good one, on the first process."""
        return self._own.failed_in_a_row if self._own else 0

    def latest(self) -> int | None:
        """Return the newest complete step, or None."""
        return self._of_first(lambda own: own.latest())

    def newest_written(self) -> int | None:
        """Return the newest step that is on the disk of the first process."""
        return self._own.newest_written() if self._own else None

    def find_whole(self) -> Found:
        """Return the newest whole step; see `Checkpoints.find_whole`."""
        step, verified, damaged = self._of_first(lambda own: list(own.find_whole()))
        return Found(step, verified, [Damage(*x) for x in damaged])

    def set_aside(self, damaged: Sequence[Damage]) -> None:
        """Rename damaged checkpoints; see `Checkpoints.set_aside`."""
        self._of_first(lambda own: own.set_aside(damaged))

    def save(
        self, step: int, state: TrainState, position: dict, items: Sequence[str] = ("params", "rest")
    ) -> None:
        """Start to write a checkpoint on the first process; see `Checkpoints.save`."""
        fields = [name for name in PARAMS.values() if getattr(state, name)] if "params" in items else []
        fields += list(REST) if "rest" in items else []
        tree = {name: getattr(state, name) for name in fields}
        gathered = jax.tree.map(self._gather, tree)
        if self._own:
            self._own.save(step, dataclasses.replace(state, **gathered), position, items)

    def take_failures(self) -> list[FailedSave]:
        """Return the saves that have failed since the last call, on the first process."""
        return self._own.take_failures() if self._own else []

    def wait(self) -> None:
        """Wait, in the first process, until the save that runs has ended."""
        if self._own:
            self._own.wait()

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """Return the state of a step, sharded like the abstract state."""
        return self._read(abstract, lambda own, empty: own.restore(step, empty))

    def restore_params(self, step: int, abstract: TrainState) -> TrainState:
        """Return the abstract state with parameters and collections restored."""
        fields = [name for name in PARAMS.values() if getattr(abstract, name)]
        return self._read(abstract, lambda own, empty: own.restore_params(step, empty), fields)

    def position(self, step: int) -> dict:
        """Return the JSON dict saved with a step; see `Checkpoints.position`."""
        return self._of_first(lambda own: own.position(step))

    def close(self) -> None:
        """Wait until everything is on the disk of the first process, or has failed to be."""
        if self._own:
            self._own.close()

    def __enter__(self) -> "FirstProcessCheckpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _of_first(self, function: Callable[[Checkpoints], Any]) -> Any:
        """Return the JSON result of the first process; its UserError is raised on all."""
        result: dict[str, Any] = {}
        if self._own:
            try:
                result = {"value": function(self._own)}
            except UserError as error:
                result = {"error": str(error)}
        result = self._peers.share("checkpoints", result)[0]
        if "error" in result:
            raise UserError(result["error"])
        return result["value"]

    def _gather(self, leaf: jax.Array) -> Any:
        """Return a leaf on the first process, and a part of it elsewhere; all processes take part."""
        if leaf.is_fully_replicated:
            return np.array(leaf.addressable_data(0))
        everything = multihost_utils.process_allgather(leaf, tiled=True)
        return np.array(everything) if self._own else leaf

    def _read(
        self, abstract: TrainState, read: Callable, fields: Sequence[str] = (*PARAMS.values(), *REST)
    ) -> TrainState:
        """Return the abstract state with fields as the first process reads them.

        read: (Checkpoints, state of empty NumPy arrays) -> state of NumPy arrays.
        """
        shapes = {name: getattr(abstract, name) for name in fields}
        found = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes)
        if self._own:
            state = read(self._own, dataclasses.replace(abstract, **found))
            found = {name: getattr(state, name) for name in fields}
        return dataclasses.replace(abstract, **jax.tree.map(_send, found, shapes))


def _send(values: np.ndarray, abstract: jax.ShapeDtypeStruct) -> jax.Array:
    """Return the values of the first process as an array of all, as an abstract one; bits are kept."""
    values = np.ascontiguousarray(values)
    bits = np.asarray(multihost_utils.broadcast_one_to_all(values.reshape(-1).view(np.uint8)))
    whole = bits.view(values.dtype).reshape(abstract.shape)
    return jax.make_array_from_callback(abstract.shape, abstract.sharding, lambda index: whole[index])
