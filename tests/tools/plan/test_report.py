"""Memory verdicts, the roofline, and the lines of a plan."""

import pytest

from fastmim_jax.config import pretrain_config
from fastmim_jax.plan import make_stage_plan
from fastmim_jax.tools.plan import report
from fastmim_jax.tools.plan.figures import StepFigures, total_bytes
from fastmim_jax.tools.plan.hlo_statistics import BETWEEN_SLICES
from fastmim_jax.tools.plan.roofline import roofline
from fastmim_jax.tools.plan.topology import parse_topology

GIB = 2**30
MEMORY = {"parameters": GIB, "optimizer": 2 * GIB, "batch": 5, "temporaries": 9 * GIB}
V5E = parse_topology("v5e:2x4")


def figures(**changes):
    values = dict(
        memory=MEMORY,
        peak_bytes=11 * GIB,
        matrix_flops=19.7e12,
        xla_flops=20e12,
        bytes_accessed=81.9e9,
        loop_factor=1.0,
        collectives={"all-reduce": [2, 200e6]},
    )
    return StepFigures(**values | changes)


def test_the_verdict_compares_all_kinds_with_what_a_program_may_use():
    lines = report.memory_lines(MEMORY, 15.75 * GIB, 16 * GIB)
    assert lines[-1].split() == "total 12.00 of 15.75 that a program may use (16.0 installed): fits".split()
    assert [line.split() for line in lines[1:-1]] == [
        ["parameters", "1.00"],
        ["optimizer", "2.00"],
        ["temporaries", "9.00"],
    ]
    assert report.memory_lines(MEMORY, 11.9 * GIB, 16 * GIB)[-1].endswith(": does not fit")
    assert total_bytes({}) == float("inf")


def test_the_roofline_is_the_slowest_resource():
    line = roofline(figures(), V5E)
    assert line.arithmetic == pytest.approx(0.1) and line.memory == pytest.approx(0.1)
    assert line.links == pytest.approx(2 * 200e6 * 7 / 8 / 200e9) and line.network == 0
    assert line.seconds == pytest.approx(0.1)
    assert roofline(figures(bytes_accessed=819e9), V5E).bound == "memory"


def test_loops_that_xla_counts_once_count_for_every_micro_batch():
    assert figures(loop_factor=4.0).step_bytes == pytest.approx(4 * 81.9e9)
    assert figures().step_bytes == 81.9e9
    assert report.LOOPS in report.work_lines(figures(loop_factor=4.0))[-1]
    assert report.LOOPS not in "".join(report.work_lines(figures()))


def test_what_crosses_the_network():
    slices = parse_topology("v5e:2x4x2slices")
    counted = roofline(figures(collectives={BETWEEN_SLICES: [9, 31e6]}), slices)
    assert counted.network == pytest.approx(0.01) and counted.links == 0
    nodes = roofline(figures(), parse_topology("h100:2x8"))
    assert nodes.network == pytest.approx(2 * 200e6 / 8 / 2 / 50e9)


def test_lines_and_cells():
    plan = make_stage_plan(pretrain_config(), records=1_281_167, devices=8)
    stage = report.StageReport(plan, figures(), roofline(figures(), V5E))
    text = "\n".join([*report.stage_lines(stage, V5E), *report.run_lines([stage], V5E, 1_281_167)])
    assert "batch 4,096, accumulation 1: 512 images a chip at a time" in text
    assert "19.7 T (ours, of the jaxpr); XLA counts 20 T" in text and "2 all-reduce (200.0 MB)" in text
    hours = 250_227 * 0.1 / 3600
    assert f"at least {hours:,.1f} hours, {8 * hours:,.0f} chip-hours" in text
    assert "800 epochs of 1,281,167 images" in text and "no measurement" in text and "network" not in text
    assert report.collective_text({}) == "none"
    cells = report.table_cells(stage, V5E)
    assert cells["hours_at_least"] == pytest.approx(hours) and cells["total_bytes"] == sum(MEMORY.values())
