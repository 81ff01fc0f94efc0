"""The search for settings with which a run fits: accumulation first, then sharding, then remat."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax

from fastmim_jax.errors import UserError
from fastmim_jax.tools.plan.topology import Topology
from fastmim_jax.train.accumulation_search import Choice, Programs, allowed_accumulations, search
from fastmim_jax.train.memory import USABLE, program_bytes
from fastmim_jax.train.out_of_memory import is_out_of_memory
from fastmim_jax.train.stage import TrainStage

_NEEDED = re.compile(r"(?:Used |temporaries \()(\d+\.?\d*)([MG])")
Changes = dict[str, Any]  # {config key: value}
# By platform, of FastMIM ViT-B/16 without accumulation: XLA fuses what the estimate counts.
PER_ESTIMATE = {"tpu": 0.6, "gpu": 0.9}
MISJUDGED = 1.3  # factor by which a prediction may be too high: a setting that near the limit is compiled


class Candidates(Protocol):
    """The programs of one stage under one setting, by number of micro-batches.

    numbers: allowed ones, ascending. share: of the memory that a program may take. per_estimate: bytes of a
    program per estimated byte, roughly.
    """

    numbers: Sequence[int]
    share: float
    per_estimate: float

    def estimate(self, number: int) -> float:
        """Return bytes roughly, without compiling."""

    def compile(self, number: int) -> float:
        """Return bytes, also of a program that is refused for its size; infinite if they are unknown."""


def refused_bytes(message: str) -> float:
    """Return the bytes that a refused program needs, of the compiler's message; infinite without any.

    >>> refused_bytes("Ran out of memory in memory space hbm. Used 21.50G of 15.75G hbm.") / 2**30
    21.5
    """
    found = _NEEDED.search(message)
    return float(found[1]) * 2 ** (30 if found[2] == "G" else 20) if found else math.inf


class Answer(NamedTuple):
    """The result of a search.

    changes: of the config; None if nothing fits.
    choices: of every stage.
    least: bytes of one device; without an answer, the least that any setting needs or is predicted to need.
    """

    changes: Changes | None
    choices: list[Choice]
    least: float


class StageCandidates:
    """The real programs of a stage."""

    def __init__(self, stage: TrainStage, log: Callable[[str], None]):
        self.programs, self._log = Programs(stage), log
        allowed = allowed_accumulations(stage)
        auto, chosen = stage.plan.auto_accumulation, stage.plan.accumulation
        self.numbers: Sequence[int] = allowed if auto else [n for n in allowed if n >= chosen] or [chosen]
        self.per_estimate = PER_ESTIMATE.get(stage.mesh.devices.flat[0].platform, 1.0)
        self.share = USABLE if auto else 1.0  # as training does: what the config says may take all

    def estimate(self, number: int) -> float:
        """See `Candidates`."""
        return self.programs.estimate(number)

    def compile(self, number: int) -> float:
        """See `Candidates`; log the bytes."""
        stage, verb = self.stage(number), "compiled"
        try:
            need = float(program_bytes(stage.step.compile(stage.abstract, self.programs.batch)) or 0)
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            need, verb = refused_bytes(str(error)), "refused by the compiler"
        size = f"{need / 2**30:.2f} GiB" if math.isfinite(need) else "too much memory"
        self._log(f"{verb} with accumulation {number}: a step needs {size} of a chip")
        return need

    def stage(self, number: int) -> TrainStage:
        """Return the stage with so many micro-batches; its step is compiled if it was measured."""
        return self.programs.at(number)


def settings(config: Any, topology: Topology) -> Iterator[Changes]:
    """Yield changes of a config in the order of the time that they cost a step, none first."""
    section = "method" if "method" in config else "model"
    sharding: list[Changes] = [{}]
    if topology.chips > 1 and not config.run.shard_optimizer_state:
        sharding.append({"run.shard_optimizer_state": True})
    sizes = sorted({size for size in (4, 16, topology.size) if topology.size % size == 0})
    sharding += [{"run.mesh_fsdp": size} for size in sizes if size > config.run.mesh_fsdp]
    yield from sharding
    if config[section].remat != "full":
        yield from ({f"{section}.remat": "full", **changes} for changes in sharding)


def find_fitting(
    settings: Iterator[Changes],
    open_candidates: Callable[[Changes], Sequence[Candidates]],
    usable: float,
    log: Callable[[str], None] = lambda text: None,
) -> Answer:
    """Return the first setting under which every stage fits, each in its smallest number of micro-batches.

    A setting that is predicted to need far more than there is, is not compiled.

    Args:
      settings: changes of the config, in the order of preference.
      open_candidates: changes -> the candidates of every stage.
      usable: bytes of one device.
      log: takes a line for every setting that does not fit.

    Raises:
      UserError: the config without changes cannot be used.
    """
    least, scale = math.inf, None
    for changes in settings:
        choices = []
        try:
            stages = open_candidates(changes)
        except UserError as error:
            if not changes:  # the user's own config
                raise
            log(f"{describe(changes)}: {error}")
            continue
        for candidates in stages:
            predicted = candidates.estimate(candidates.numbers[-1])
            if scale is not None and scale * predicted > MISJUDGED * usable:
                least = min(least, scale * predicted)
                log(f"{describe(changes)}: predicted not to fit, not compiled")
                break
            limit = candidates.share * usable
            choice = search(
                candidates.numbers, candidates.estimate, candidates.compile, limit, candidates.per_estimate
            )
            finite = {n: need for n, need in choice.needs.items() if math.isfinite(need)}
            if finite:
                scale = max(need / candidates.estimate(n) for n, need in finite.items())
            if choice.accumulation is None:
                least = min([least, *finite.values()])
                log(f"{describe(changes)}: does not fit")
                break
            choices.append(choice)
        else:
            needs = [choice.needs[choice.accumulation or 1] for choice in choices]
            return Answer(changes, choices, max(needs))
    return Answer(None, [], least)


def describe(changes: Changes) -> str:
    """Return changes in words of the config, such as "run.mesh_fsdp=8"."""
    return ", ".join(f"{key}={value}" for key, value in changes.items()) or "the config as it is"
