"""Gradient accumulation that fits: the number of micro-batches whose compiled step fits in memory."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax

from fastmim_jax.errors import OutOfMemoryError, UserError
from fastmim_jax.io import read_json, write_json
from fastmim_jax.mim.mixmim import micro_batch_split
from fastmim_jax.train.liveness import peak_bytes
from fastmim_jax.train.memory import (
    USABLE,
    argument_bytes,
    compiled_bytes,
    describe_bytes,
    free_bytes,
    largest_of_processes,
    reading_bytes,
)
from fastmim_jax.train.report import Note, log_notes
from fastmim_jax.train.stage import TrainStage
from fastmim_jax.validate.names import count, flag, stage_of

FILE = "accumulation.json"  # in the work directory: the numbers that a run has chosen
PROGRAMS = 3  # compiled at most, while one fits
MISJUDGED = 1.05  # factor by which a prediction may be too high: a number that near the limit is tried
PER_ESTIMATE = 1.3  # bytes of a compiled step per estimated byte, before the first is compiled

AnyStage = TypeVar("AnyStage", bound=TrainStage)


class Choice(NamedTuple):
    """A number of micro-batches.

    accumulation: None if none fits. needs: {number: bytes} of the compiled ones.
    """

    accumulation: int | None
    needs: dict[int, float]


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
    log_notes([_note(programs, number, free)], log)
    return programs.stages[number]


def saved_stage(stage: AnyStage, workdir: Path) -> AnyStage:
    """Return a stage with the micro-batches that its run has chosen, if any; nothing is compiled."""
    saved = _read(workdir, stage)
    return stage.with_accumulation(saved) if stage.plan.auto_accumulation and saved else stage


def allowed_accumulations(stage: TrainStage) -> list[int]:
    """Return the numbers of micro-batches that split the batch of a stage, ascending.

    Every micro-batch has as many images on each device and in each group of a batch norm, and pairs of
    MixMIM stay together.
    """
    batch = stage.plan.batch_size
    unit = math.lcm(stage.plan.devices, stage.model.encoder.norm_groups)
    if batch % unit:
        return [1]
    numbers = [number for number in range(1, batch // unit + 1) if (batch // unit) % number == 0]
    groups = _mixing_groups(stage)
    return [n for n in numbers if n == 1 or not groups or micro_batch_split(batch, groups, n)]


def _mixing_groups(stage: TrainStage) -> int:
    """Return the number of groups whose images MixMIM mixes; 0 for methods that mix none."""
    batch = stage.plan.batch_size
    noise_shape = getattr(stage.model, "noise_shape", None)
    if noise_shape is None or noise_shape((batch, *stage.reader.image_shape))[0] == batch:
        return 0
    return stage.model.groups


def search(
    numbers: Sequence[int],
    estimate: Callable[[int], float],
    measure: Callable[[int], float],
    limit: float,
    per_estimate: float = PER_ESTIMATE,
) -> Choice:
    """Return the smallest number of micro-batches whose program fits, from few programs.

    Args:
      numbers: allowed ones, ascending.
      estimate: number -> bytes, roughly; falling.
      measure: number -> bytes of the compiled program; infinite if it could not be compiled for its size.
      limit: bytes.
      per_estimate: bytes of a program per estimated byte, before the first is compiled.
    """
    scale, tolerance, needs = per_estimate, 1.0, dict[int, float]()

    def hopeful(candidates: Sequence[int]) -> int | None:
        return next((n for n in candidates if scale * estimate(n) <= limit * tolerance), None)

    number = hopeful(numbers) or numbers[-1]
    while True:
        needs[number] = measure(number)
        if math.isfinite(needs[number]):
            scale = needs[number] / estimate(number)
        best = min((n for n, need in needs.items() if need <= limit), default=None)
        too_few = max((n for n, need in needs.items() if need > limit), default=0)
        between = [n for n in numbers if too_few < n and (best is None or n < best)]
        tolerance = 1.0 if best is None else MISJUDGED
        following = hopeful(between)
        if best is None:
            if not between:
                return Choice(None, needs)
            number = following or between[-1]
        elif following is None or len(needs) >= PROGRAMS:
            return Choice(best, needs)
        else:
            number = following


def what_to_type(stage: TrainStage) -> str:
    """Return the end of a sentence about too little memory, such as the flag that halves a micro-batch."""
    number = stage.plan.accumulation
    more = next((n for n in allowed_accumulations(stage) if n >= 2 * number), None)
    if more is not None:
        return stage_of(stage.config, stage.plan.stage).typed("schedule.accumulation", more)
    smaller, key = _smaller(stage, number), _remat_key(stage)
    return f"type {flag(key, 'full')}, or use {smaller}" if key else f"use {smaller}"


def keep_accumulation(workdir: Path, numbers: dict[int, int]) -> None:
    """Keep the numbers {stage: micro-batches} of a run whose config will say AUTO."""
    if not (workdir / FILE).exists():
        entries = {str(s): {"accumulation": number, "machine": None} for s, number in numbers.items()}
        write_json(workdir / FILE, entries)


class Programs(Generic[AnyStage]):
    """The steps of a stage by number of micro-batches, compiled once, and their bytes on one device."""

    def __init__(self, stage: AnyStage):
        self.stage, self.stages = stage, {stage.plan.accumulation: stage}
        self.needs: dict[int, float] = {}
        self._estimates: dict[int, float] = {}
        self.batch = stage.abstract_batch()

    def at(self, number: int) -> AnyStage:
        if number not in self.stages:
            self.stages[number] = self.stage.with_accumulation(number)
        return self.stages[number]

    def compile(self, number: int) -> float:
        """Return the bytes of a program on one device, the most of all processes."""
        stage = self.at(number)
        self.needs[number] = compiled_bytes(stage.step, stage.abstract, self.batch)
        return self.needs[number]

    def estimate(self, number: int) -> float:
        """Return bytes roughly: affine in the size of a micro-batch, from the smallest and the largest."""
        numbers = allowed_accumulations(self.stage)
        if number == 1:
            return self._traced(1)
        whole, least = self._traced(1), self._traced(numbers[-1])
        slope = (whole - least) / (1 - 1 / numbers[-1])
        return whole - slope * (1 - 1 / number)

    def _traced(self, number: int) -> float:
        if number not in self._estimates:
            stage = self.at(number)
            jaxpr = stage.step.trace(stage.abstract, self.batch).jaxpr.jaxpr
            # Devices share the images and their activations; gradients are as large as the parameters.
            gradients = argument_bytes(stage.abstract.params) * (1 if number == 1 else 2)
            activations = max(0, peak_bytes(jaxpr) - gradients) / stage.plan.devices
            held = argument_bytes((stage.abstract, self.batch))
            self._estimates[number] = held + gradients + activations
        return self._estimates[number]

    def beside(self) -> int:
        """Return the bytes of a run beside its step: on CPUs, of the reader and a checkpoint's copy."""
        if self.stage.mesh.devices.flat[0].platform != "cpu":
            return 0
        return argument_bytes(self.stage.abstract) + reading_bytes(self.batch, self.stage.mesh)


def _choose(programs: Programs, free: int, workdir: Path | None) -> int:
    """Return the smallest number that fits, or the one that the run has chosen before, if that fits."""
    stage, limit = programs.stage, USABLE * free - programs.beside()
    numbers = allowed_accumulations(stage)
    saved = _read(workdir, stage) if workdir else None
    if saved in numbers and programs.compile(saved) <= limit:
        return saved
    choice = search(numbers, programs.estimate, programs.compile, limit)
    if choice.accumulation is None:
        raise OutOfMemoryError(_nothing_fits(programs, numbers[-1], free))
    if workdir:
        _write(workdir, stage, choice.accumulation)
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
        raise OutOfMemoryError(_nothing_fits(programs, number, free))
    stage = stage_of(programs.stage.config, programs.stage.plan.stage)
    raise OutOfMemoryError(
        f"{stage.name('schedule.accumulation')} is {number}: {_a_step_needs(programs, number)}, and "
        f"{describe_bytes(free)} are free: "
        f"{stage.typed('schedule.accumulation', choice.accumulation)} "
        f"({describe_bytes(choice.needs[choice.accumulation])}), or leave it at auto"
    )


def _nothing_fits(programs: Programs, number: int, free: int) -> str:
    """Return the sentence for a step that fits in no number of micro-batches; remat is compiled for it."""
    state, limit = argument_bytes(programs.stage.abstract), USABLE * free - programs.beside()
    seen = (
        f"{_a_step_needs(programs, number)}, {describe_bytes(state)} of them for parameters and optimizer, "
        f"and {describe_bytes(free)} are free"
    )
    if state > limit:
        return f"{seen}: use a smaller backbone"
    smaller, key = _smaller(programs.stage, number), _remat_key(programs.stage)
    if not key:
        return f"{seen}: use {smaller} (not checked)"
    remat = Programs(programs.stage.rebuild({key: "full"}))
    for candidate in dict.fromkeys((number, allowed_accumulations(programs.stage)[-1])):
        need = remat.compile(candidate)
        if need <= limit:
            stage = stage_of(programs.stage.config, programs.stage.plan.stage)
            more = stage.typed("schedule.accumulation", candidate).removeprefix("type ")
            flags = flag(key, "full") + (f" and {more}" if candidate != number else "")
            return f"{seen}: type {flags}, which fits ({describe_bytes(need)}, compiled)"
    return f"{seen}; {flag(key, 'full')} does not fit either (compiled): use {smaller} (not checked)"


def _remat_key(stage: TrainStage) -> str:
    """Return the config key of remat if a stage does without; "" if it uses it already."""
    section = "method" if "method" in stage.config else "model"
    return f"{section}.remat" if stage.config[section].remat == "none" else ""


def _smaller(stage: TrainStage, number: int) -> str:
    """Return what to make smaller, where `number` micro-batches are the most."""
    images = stage_of(stage.config, stage.plan.stage).name("data.image_size")
    choices = [f"smaller images ({images})", "a smaller backbone"]
    if stage.plan.batch_size > number * stage.plan.devices:  # images that have to stay together
        choices.insert(0, "a smaller --config.schedule.batch_size")
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _a_step_needs(programs: Programs, number: int) -> str:
    need = programs.needs[number]
    if math.isinf(need):
        return f"{_a_step(programs, number)} needs more memory than the compiler accepts"
    return f"{_a_step(programs, number)} needs {describe_bytes(need)} of memory"


def _a_step(programs: Programs, number: int) -> str:
    return f"a step of {count(programs.stage.plan.batch_size // number, 'image')} at a time"


def _note(programs: Programs, number: int, free: int) -> Note:
    """Return both numbers, and what accumulation changes beside memory."""
    plan, need = programs.stage.plan, programs.needs[number]
    text = f"{_a_step(programs, number)} needs {describe_bytes(need)} of {describe_bytes(free)} free"
    if not plan.auto_accumulation or number == 1:
        return Note("memory", text)
    whole = programs.needs.get(1) or programs.estimate(1) * need / programs.estimate(number)
    text += f"; accumulation {number} (auto), as the whole batch needs about {describe_bytes(whole)}"
    if programs.stage.abstract.collections:
        text += f"; batch norms take their statistics over {plan.batch_size // number:,} images"
    if programs.stage.model.encoder.drop_path:
        text += "; drop path draws other samples"
    return Note("memory", text)


def _machine(stage: TrainStage) -> list[Any]:
    """Return what a chosen number depends on."""
    device = stage.mesh.devices.flat[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    return [device.device_kind, stage.plan.devices, (stats or {}).get("bytes_limit", 0)]


def read_accumulation(workdir: Path) -> dict[str, dict[str, Any]]:
    """Return {stage: {"accumulation": number, "machine": list or None}} that a run has chosen.

    Raises:
      UserError: the file cannot be read, or holds something else.
    """
    path, expected = workdir / FILE, "the numbers of micro-batches of a run: delete it"
    if not path.exists():
        return {}
    saved = read_json(path, dict, expected)
    for entry in saved.values():
        if not isinstance(entry, dict) or not isinstance(entry.get("accumulation"), int):
            raise UserError(f"{path} cannot be read (it holds other values), expected {expected}")
    return saved


def _read(workdir: Path, stage: TrainStage) -> int | None:
    """Return the number that the run has chosen for a stage on such a machine, or None."""
    entry = read_accumulation(workdir).get(str(stage.plan.stage))
    return entry["accumulation"] if entry and entry.get("machine") in (None, _machine(stage)) else None


def _write(workdir: Path, stage: TrainStage, number: int) -> None:
    if jax.process_index() == 0:
        saved = read_accumulation(workdir)
        saved[str(stage.plan.stage)] = {"accumulation": number, "machine": _machine(stage)}
        write_json(workdir / FILE, saved)
