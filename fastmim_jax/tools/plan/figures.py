"""Figures of a compiled training step for one device: memory by kind, work, and communication."""

import collections
import dataclasses
import math
from typing import Any

import jax

from fastmim_jax.tools.flops import matrix_flops
from fastmim_jax.tools.plan.hlo_statistics import statistics
from fastmim_jax.train.memory import argument_bytes, program_bytes
from fastmim_jax.train.stage import TrainStage


@dataclasses.dataclass(frozen=True)
class StepFigures:
    """Figures of one training step on one device.

    Attributes:
      memory: {kind: bytes}; the kinds add up to what the program needs.
      peak_bytes: the most that the compiler's schedule has in use.
      matrix_flops: of the jaxpr, in all micro-batches and with what remat computes again.
      xla_flops, bytes_accessed: as XLA counts them, where the body of a loop counts once.
      loop_factor: by how much bytes grow with the turns of the loops, see `hlo_statistics.statistics`.
      collectives: {operation: [count, bytes of the whole arrays]}.
    """

    memory: dict[str, int]
    peak_bytes: int
    matrix_flops: float
    xla_flops: float
    bytes_accessed: float
    loop_factor: float
    collectives: dict[str, list[int]]

    @property
    def has_loops(self) -> bool:
        """Whether loops turn more than once, whose bytes are approximate."""
        return self.loop_factor > 1.001

    @property
    def step_bytes(self) -> float:
        """Bytes accessed in a step, with all turns of its loops: roughly, as reads grow like writes."""
        return self.bytes_accessed * self.loop_factor


def step_figures(stage: TrainStage, program: jax.stages.Compiled) -> StepFigures:
    """Return the figures of a stage's compiled training step."""
    costs, counted = cost_analysis(program), statistics(program.as_text() or "")
    plan: Any = program.memory_analysis()
    # Without the mesh: attention by XLA's products, which can be counted, instead of kernels.
    flops = matrix_flops(stage.step.jitted.__wrapped__, stage.abstract, stage.abstract_batch())
    return StepFigures(
        memory=_memory(stage, program, plan),
        peak_bytes=plan.peak_memory_in_bytes,
        matrix_flops=flops / stage.mesh.size,
        xla_flops=costs["flops"],
        bytes_accessed=costs["bytes accessed"],
        loop_factor=counted["loop_factor"],
        collectives=counted["collectives"],
    )


def _memory(stage: TrainStage, program: jax.stages.Compiled, plan: Any) -> dict[str, int]:
    """Return {kind: bytes}, in all `program_bytes`."""
    state = stage.abstract
    memory = {
        "parameters": argument_bytes(state.params),
        "optimizer": argument_bytes(state.opt_state),
        "batch": argument_bytes(stage.abstract_batch()),
    }
    memory["other state"] = argument_bytes(state) - memory["parameters"] - memory["optimizer"]
    memory["padding of these"] = max(0, plan.argument_size_in_bytes - sum(memory.values()))
    memory["temporaries"] = plan.temp_size_in_bytes
    memory["outputs, program"] = max(0, (program_bytes(program) or 0) - sum(memory.values()))
    return memory


def cost_analysis(compiled: Any) -> dict[str, float]:
    """Return XLA's costs; a loop's body counts once, custom calls (cuBLAS, cuDNN) have no FLOPs."""
    costs: dict[str, float] | None = compiled.cost_analysis()
    if costs:
        return costs
    # The GPU plug-in has none: the generic analysis of XLA, which JAX keeps private.
    from jax._src.lib import xla_client

    total: collections.Counter = collections.Counter()
    client = jax.devices("cpu")[0].client
    for module in compiled.runtime_executable().hlo_modules():
        costs = xla_client._xla.hlo_module_cost_analysis(client, module)
        total.update({key: value for key, value in costs.items() if isinstance(value, (int, float))})
    return dict(total)


def total_bytes(memory: dict[str, int]) -> float:
    """Return the bytes of all kinds; infinite without any, for a program that the compiler refuses."""
    return sum(memory.values()) if memory else math.inf
