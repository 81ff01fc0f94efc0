"""The lines of a plan."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from fastmim_jax.plan import StagePlan
from fastmim_jax.tools.plan.figures import StepFigures, total_bytes
from fastmim_jax.tools.plan.roofline import Roofline
from fastmim_jax.tools.plan.topology import Topology
from fastmim_jax.validate.names import count

GIB = 2**30
LOOPS = "bytes inside loops are approximate: reads are taken to grow with a loop's turns as writes do"
ASSUMPTIONS = (
    "this is a bound and no measurement: arithmetic at the peak of bfloat16, every byte that XLA counts at "
    "the full bandwidth of the memory, collectives at that of the links, all at the same time; latency, "
    "reading, evaluation and checkpoints are left out. A real step takes longer."
)


@dataclasses.dataclass(frozen=True)
class StageReport:
    """The figures of one stage of a run, with the accumulation that was chosen."""

    plan: StagePlan
    figures: StepFigures
    roofline: Roofline

    @property
    def hours(self) -> float:
        """Hours of the stage at the bound of the roofline."""
        return (self.plan.last_step - self.plan.first_step) * self.roofline.seconds / 3600


def memory_lines(memory: dict[str, int], usable: float, installed: float) -> list[str]:
    """Return a table of memory in GiB and the verdict."""
    total = total_bytes(memory)
    verdict = "fits" if total <= usable else "does not fit"
    lines = [f"  {kind:<18}{size / GIB:8.2f}" for kind, size in memory.items() if size >= GIB / 1000]
    return [
        "memory of one chip, GiB",
        *lines,
        f"  {'total':<18}{total / GIB:8.2f} of {usable / GIB:.2f} that a program may use "
        f"({installed / GIB:.1f} installed): {verdict}",
    ]


def collective_text(collectives: dict[str, list[int]]) -> str:
    """Return collectives by kind, such as "2 all-reduce (173.8 MB)"."""
    parts = [f"{number} {name} ({size / 1e6:,.1f} MB)" for name, (number, size) in collectives.items()]
    return ", ".join(parts) or "none"


def work_lines(figures: StepFigures) -> list[str]:
    """Return the work of one chip in one step."""
    lines = [
        "work of one chip in one step",
        f"  matrix FLOPs      {figures.matrix_flops / 1e12:.4g} T (ours, of the jaxpr); XLA counts "
        f"{figures.xla_flops / 1e12:.4g} T, loops once",
        f"  bytes accessed    {figures.step_bytes / 1e9:.4g} GB; XLA counts "
        f"{figures.bytes_accessed / 1e9:.4g} GB, loops once",
        f"  collectives       {collective_text(figures.collectives)}",
    ]
    return [*lines, f"  {LOOPS}"] if figures.has_loops else lines


def roofline_lines(roofline: Roofline, topology: Topology) -> list[str]:
    """Return the seconds of a step at the peak of each resource."""
    chip = topology.chip
    rates = {
        "arithmetic": f"{chip.peak_flops / 1e12:,.0f} TFLOP/s",
        "memory": f"{chip.bandwidth / 1e9:,.0f} GB/s",
        "links": f"{chip.link / 1e9:,.0f} GB/s a chip",
        "network": f"{chip.network / 1e9:,.4g} GB/s a chip",
    }
    seconds = dataclasses.asdict(roofline)
    return ["roofline of one step"] + [
        f"  {name:<18}{seconds[name] * 1e3:8.1f} ms at {rate}"
        for name, rate in rates.items()
        if seconds[name]
    ]


def stage_lines(report: StageReport, topology: Topology) -> list[str]:
    """Return the lines of one stage."""
    plan, chip = report.plan, topology.chip
    images = plan.batch_size // plan.devices // plan.accumulation
    steps = plan.last_step - plan.first_step
    return [
        f"stage {plan.stage + 1} of {plan.stages}: {plan.image_size[0]} x {plan.image_size[1]} px, batch "
        f"{plan.batch_size:,}, accumulation {plan.accumulation}: {count(images, 'image')} a chip at a time",
        *memory_lines(report.figures.memory, chip.usable_bytes(), chip.memory_bytes),
        *work_lines(report.figures),
        *roofline_lines(report.roofline, topology),
        f"at least {report.roofline.seconds * 1e3:,.1f} ms a step ({report.roofline.bound}); "
        f"{count(steps, 'step')} take at least {report.hours:,.1f} hours, "
        f"{report.hours * topology.chips:,.0f} chip-hours",
    ]


def table_cells(report: StageReport, topology: Topology) -> dict[str, Any]:
    """Return {column: value} of a stage for a table or JSON."""
    plan = report.plan
    return {
        "topology": topology.name,
        "stage": plan.stage + 1,
        "batch_size": plan.batch_size,
        "accumulation": plan.accumulation,
        "memory": report.figures.memory,
        "total_bytes": total_bytes(report.figures.memory),
        "usable_bytes": topology.chip.usable_bytes(),
        "peak_bytes": report.figures.peak_bytes,
        "matrix_flops": report.figures.matrix_flops,
        "xla_flops": report.figures.xla_flops,
        "bytes_accessed": report.figures.step_bytes,
        "bytes_are_approximate": report.figures.has_loops,
        "collectives": report.figures.collectives,
        "roofline_seconds": dataclasses.asdict(report.roofline),
        "steps": plan.last_step - plan.first_step,
        "hours_at_least": report.hours,
        "chip_hours_at_least": report.hours * topology.chips,
    }


def run_lines(reports: Sequence[StageReport], topology: Topology, records: int) -> list[str]:
    """Return the time of the whole run and what it assumes."""
    hours = sum(report.hours for report in reports)
    return [
        f"the run, {reports[0].plan.total_epochs:.5g} epochs of {records:,} images: at least "
        f"{hours:,.1f} hours, {hours * topology.chips:,.0f} chip-hours",
        ASSUMPTIONS,
    ]
