"""Hooks: functions that the training loop calls between steps."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from fastmim_jax.train.state import TrainState


def _never(step: int) -> bool:
    """Return False: a run without early stopping goes to its last step."""
    return False


class Hook(NamedTuple):
    """A function to call every `every` steps and after the last.

    function: (step, state) -> {name: value, or the path of a picture}, or None.
    ended: step -> whether the run ends there, before its last step (early stopping).
    """

    every: int
    function: Callable[[int, TrainState], Mapping[str, float | Path] | None]
    ended: Callable[[int], bool] = _never
