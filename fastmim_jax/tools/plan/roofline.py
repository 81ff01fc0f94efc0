"""The roofline of a step: what no step can be faster than. Nothing is measured."""

import dataclasses

from fastmim_jax.tools.plan.figures import StepFigures
from fastmim_jax.tools.plan.hlo_statistics import BETWEEN_SLICES
from fastmim_jax.tools.plan.topology import Topology

# How often a collective sends its arrays out of a chip (ring algorithms), times (n - 1) / n of n chips.
PASSES = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1, "all-to-all": 1, "collective-permute": 1}


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one step at the peak of each resource."""

    arithmetic: float
    memory: float
    links: float
    network: float

    @property
    def seconds(self) -> float:
        """Seconds that a step takes at least, if all of them overlap."""
        return max(dataclasses.astuple(self))

    @property
    def bound(self) -> str:
        """Name of the resource that takes longest."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


def roofline(figures: StepFigures, topology: Topology) -> Roofline:
    """Return the roofline of a step.

    Collectives inside a slice or node run at the bandwidth of a chip's links. Between slices, an array is
    summed inside each one first, so that every chip sends its share of it through the network.
    """
    chip, size = topology.chip, topology.size
    inside: float = sum(PASSES.get(name, 0) * total for name, (_, total) in figures.collectives.items())
    between: float = figures.collectives.get(BETWEEN_SLICES, [0, 0])[1]
    if topology.slices > 1 and not between:  # of nodes of GPUs: the collectives do not say what crosses
        between = 2 * figures.collectives.get("all-reduce", [0, 0])[1] / size
        between *= (topology.slices - 1) / topology.slices
    return Roofline(
        arithmetic=figures.matrix_flops / chip.peak_flops,
        memory=figures.step_bytes / chip.bandwidth,
        links=inside * (size - 1) / size / chip.link,
        network=between / chip.network,
    )
