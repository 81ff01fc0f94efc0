"""Gradient accumulation that fits: the number of micro-batches whose compiled step fits in memory."""

from collections.abc import Callable
from pathlib import Path

from fastmim_jax.errors import OutOfMemoryError
from fastmim_jax.train.accumulation_advice import fitting_note, nothing_fits, step_needs
from fastmim_jax.train.accumulation_file import read_number, write_number
from fastmim_jax.train.accumulation_search import (
    AnyStage,
    Choice,
    Programs,
    allowed_accumulations,
    search,
)
from fastmim_jax.train.memory import USABLE, describe_bytes, free_bytes, largest_of_processes
from fastmim_jax.train.report import log_notes
from fastmim_jax.validate.names import stage_of


def fit_stage(
    stage: AnyStage,
    log: Callable[[str], None],
    workdir: Path | None = None,
    free: int | None = None,
) -> AnyStage:
    """Return a stage whose step is compiled and fits in memory; log both numbers.

    A number of micro-batches in the config is checked; AUTO is chosen, and kept in the work directory, so
    that a run that resumes on such a machine takes the same number.

    Args:
      workdir: of the run; None keeps nothing.
      free: bytes on one device; None: those free now.

    Raises:
      OutOfMemoryError: the number in the config does not fit, or none does; with the numbers.
    """
    found = free_bytes(stage.mesh) if free is None else free
    programs = Programs(stage)
    if found is None:
        programs.compile(stage.plan.accumulation)
        return programs.stages[stage.plan.accumulation]
    free = -int(largest_of_processes(-found))
    if stage.plan.auto_accumulation:
        number = _choose(programs, free, workdir)
    else:
        number = stage.plan.accumulation
        _check(programs, number, free)
    log_notes([fitting_note(programs, number, free)], log)
    return programs.stages[number]


def saved_stage(stage: AnyStage, workdir: Path) -> AnyStage:
    """Return a stage with the micro-batches that its run has chosen, if any; nothing is compiled."""
    saved = read_number(workdir, stage)
    return stage.with_accumulation(saved) if stage.plan.auto_accumulation and saved else stage


def _choose(programs: Programs, free: int, workdir: Path | None) -> int:
    """Return the smallest number that fits, or the one that the run has chosen before, if that fits."""
    stage, limit = programs.stage, USABLE * free - programs.beside()
    numbers = allowed_accumulations(stage)
    saved = read_number(workdir, stage) if workdir else None
    if saved in numbers and programs.compile(saved) <= limit:
        return saved
    choice = search(numbers, programs.estimate, programs.compile, limit)
    if choice.accumulation is None:
        raise OutOfMemoryError(nothing_fits(programs, numbers[-1], free))
    if workdir:
        write_number(workdir, stage, choice.accumulation)
    return choice.accumulation


def _check(programs: Programs, number: int, free: int) -> None:
    """Raise UserError if the number of the config needs more than the free memory."""
    need = programs.compile(number)
    if need <= free:
        return
    numbers = [n for n in allowed_accumulations(programs.stage) if n > number]
    limit = USABLE * free - programs.beside()
    choice = search(numbers, programs.estimate, programs.compile, limit) if numbers else Choice(None, {})
    if choice.accumulation is None:
        raise OutOfMemoryError(nothing_fits(programs, number, free))
    stage = stage_of(programs.stage.config, programs.stage.plan.stage)
    raise OutOfMemoryError(
        f"{stage.name('schedule.accumulation')} is {number}: {step_needs(programs, number)}, and "
        f"{describe_bytes(free)} are free: "
        f"{stage.typed('schedule.accumulation', choice.accumulation)} "
        f"({describe_bytes(choice.needs[choice.accumulation])}), or leave it at auto"
    )
