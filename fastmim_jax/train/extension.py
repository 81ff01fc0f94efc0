"""Extension of a run: resumed for more updates than it was begun for, with the past that it had."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastmim_jax.errors import UserError
from fastmim_jax.stages import stage_count

LENGTHS = ("schedule.epochs", "schedule.steps")  # keys that set how long a run is


def only_length(changed: Sequence[tuple[str, Any, Any]]) -> bool:
    """Return whether configs that differ, in [(key, old value, new value)], differ in the length alone."""
    return bool(changed) and all(key in LENGTHS for key, _, _ in changed)


def check_nothing_to_extend(workdir: Path, extend: bool) -> None:
    """Raise UserError if a run is to be extended in a work directory that holds none."""
    if extend:
        raise UserError(
            f"{workdir} holds no run to extend: type the --workdir of one, or leave out --extend to begin "
            "a run there"
        )


def check_extension(
    workdir: Path, old: Any, new: Any, records: int | None, extend: bool, shown: str
) -> None:
    """Check that a run whose length alone changed may be extended, and is meant to be.

    Args:
      workdir: of the run.
      old, new: configs.
      records: images in the training data; None if that is not known.
      extend: whether the user asks for it.
      shown: what changed, in words.

    Raises:
      UserError: it is shorter than before, its past learning rates depend on its length, or `extend` is
        False.
    """
    began = f"{workdir} was started for another length ({shown})"
    if _epochs(new, records) < _epochs(old, records):
        raise UserError(
            f"{began}; a run can be extended and not be shortened: type the old length to resume it, or "
            "evaluate one of its checkpoints"
        )
    if not _keeps_rates(old, new, records):
        raise UserError(
            f"{began}, on which its learning rates depend from the start: type the old length to resume "
            f"it, or --config.init={workdir} and another --workdir to train on from its end"
        )
    if not extend:
        raise UserError(
            f"{began}: type --extend to go on with it, which leaves the learning rates so far as they "
            "were, or the old length"
        )


def _keeps_rates(old: Any, new: Any, records: int | None) -> bool:
    """Return whether past learning rates do not depend on the length of a run: no cosine, no stages."""
    if stage_count(new) > 1 or new.schedule.shape != "step":
        return False
    return old.schedule.warmup_epochs <= _epochs(old, records)  # a longer one is cut to the run


def _epochs(config: Any, records: int | None) -> float:
    """Return the length of a run; schedule.steps counts as many epochs if the records are not known."""
    schedule = config.schedule
    if not schedule.steps:
        return schedule.epochs
    return schedule.steps * schedule.batch_size / (records or schedule.batch_size)
