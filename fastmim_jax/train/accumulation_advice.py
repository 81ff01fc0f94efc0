"""Sentences about the memory of a step: what it needs, and what to type where that is too much."""

import math

from fastmim_jax.train.accumulation_search import Programs, allowed_accumulations
from fastmim_jax.train.memory import USABLE, argument_bytes, describe_bytes
from fastmim_jax.train.report import Note
from fastmim_jax.train.stage import TrainStage
from fastmim_jax.validate.names import count, flag, stage_of


def what_to_type(stage: TrainStage) -> str:
    """Return the end of a sentence about too little memory, such as the flag that halves a micro-batch."""
    number = stage.plan.accumulation
    more = next((n for n in allowed_accumulations(stage) if n >= 2 * number), None)
    if more is not None:
        return stage_of(stage.config, stage.plan.stage).typed("schedule.accumulation", more)
    smaller, key = _smaller(stage, number), _remat_key(stage)
    return f"type {flag(key, 'full')}, or use {smaller}" if key else f"use {smaller}"


def nothing_fits(programs: Programs, number: int, free: int) -> str:
    """Return the sentence for a step that fits in no number of micro-batches; remat is compiled for it."""
    state, limit = argument_bytes(programs.stage.abstract), USABLE * free - programs.beside()
    seen = (
        f"{step_needs(programs, number)}, {describe_bytes(state)} of them for parameters and optimizer, "
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


def fitting_note(programs: Programs, number: int, free: int) -> Note:
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


def step_needs(programs: Programs, number: int) -> str:
    """Return what a step needs in so many micro-batches; it has been compiled, or tried."""
    need = programs.needs[number]
    if math.isinf(need):
        return f"{_a_step(programs, number)} needs more memory than the compiler accepts"
    return f"{_a_step(programs, number)} needs {describe_bytes(need)} of memory"


def _a_step(programs: Programs, number: int) -> str:
    return f"a step of {count(programs.stage.plan.batch_size // number, 'image')} at a time"


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
