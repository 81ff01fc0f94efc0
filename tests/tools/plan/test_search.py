"""The search for what fits, with a compiler of arithmetic."""

import math

import pytest

from fastmim_jax.config import pretrain_config
from fastmim_jax.errors import UserError
from fastmim_jax.tools.plan.search import find_fitting, refused_bytes, settings
from fastmim_jax.tools.plan.topology import parse_topology

ZERO, FSDP, REMAT = "run.shard_optimizer_state", "run.mesh_fsdp", "method.remat"


class Candidates:
    """Programs that need state / sharding + activations / micro-batches."""

    numbers, share, per_estimate = (1, 2, 4, 8), 0.9, 1.0

    def __init__(self, changes, state=10.0, activations=16.0, refuses=math.inf, compiled=None):
        self.state = state / changes.get(FSDP, 3 if ZERO in changes else 1)
        self.activations = activations / (4 if REMAT in changes else 1)
        self.changes, self.refuses, self.compiled = changes, refuses, [] if compiled is None else compiled

    def estimate(self, number):
        return 0.7 * (self.state + self.activations / number)

    def compile(self, number):
        self.compiled.append((tuple(self.changes), number))
        need = self.state + self.activations / number
        return need if need < self.refuses else math.inf


def found(usable, log=lambda text: None, **options):
    every = settings(pretrain_config(), parse_topology("v5e:4x4"))
    return find_fitting(every, lambda changes: [Candidates(changes, **options)], usable, log)


@pytest.mark.parametrize(
    ("usable", "changes", "number"),
    [
        (30.0, {}, 1),
        (21.0, {}, 2),
        (13.5, {}, 8),
        (12.0, {ZERO: True}, 4),
        (5.5, {FSDP: 4}, 8),
        (3.0, {FSDP: 16}, 8),
        (2.0, {REMAT: "full", FSDP: 16}, 4),
    ],
)
def test_the_first_setting_that_fits_is_taken(usable, changes, number):
    answer = found(usable)
    assert answer.changes == changes and answer.choices[0].accumulation == number
    assert answer.least <= 0.9 * usable


def test_nothing_fits():
    compiled, lines = [], []
    answer = found(0.5, lines.append, compiled=compiled)
    assert answer.changes is None and not answer.choices and answer.least > 0.5
    assert len(lines) == 8 and "the config as it is: does not fit" in lines
    assert any("run.mesh_fsdp=4: predicted not to fit, not compiled" in line for line in lines)
    assert len(compiled) < 8  # the hopeless ones are not compiled


def test_refused_programs_are_no_end():
    assert found(12.0, refuses=11.0).changes == {ZERO: True}


def test_settings_that_the_config_forbids_are_passed_over():
    def open_candidates(changes):
        if ZERO in changes:
            raise UserError("no ZeRO")
        return [Candidates(changes)]

    every, lines = settings(pretrain_config(), parse_topology("v5e:4x4")), []
    assert find_fitting(every, open_candidates, 12.0, lines.append).changes == {FSDP: 4}
    assert lines[-1] == "run.shard_optimizer_state=True: no ZeRO"
    with pytest.raises(UserError, match="no ZeRO"):
        find_fitting(iter([{}]), lambda changes: open_candidates({ZERO: True}), 12.0)


def test_every_stage_has_to_fit():
    def two_stages(changes):
        return [Candidates(changes), Candidates(changes, activations=40.0)]

    every = settings(pretrain_config(), parse_topology("v5e:4x4"))
    answer = find_fitting(every, two_stages, 21.0)
    assert answer.changes == {} and [choice.accumulation for choice in answer.choices] == [2, 8]


def test_settings_leave_out_what_the_config_has():
    config = pretrain_config()
    config.run.mesh_fsdp, config.run.shard_optimizer_state, config.method.remat = 16, True, "full"
    assert list(settings(config, parse_topology("v5e:4x4"))) == [{}]
    config.method.remat = "dots"
    assert list(settings(config, parse_topology("h100:1"))) == [{}, {REMAT: "full"}]


def test_bytes_of_a_refused_program():
    text = "Ran out of memory in memory space hbm. Used 161.92G of 15.75G hbm. Exceeded hbm capacity"
    assert refused_bytes(text) == 161.92 * 2**30
    text = "the total memory required for HLO temporaries (192.00M) exceeds available HBM"
    assert refused_bytes(text) == 192 * 2**20
    assert refused_bytes("RESOURCE_EXHAUSTED") == math.inf
