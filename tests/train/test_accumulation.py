"""The number of micro-batches that fits: how it is found, kept and refused."""

import math
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from fastmim_jax.errors import OutOfMemoryError
from fastmim_jax.train import memory
from fastmim_jax.train.accumulation import fit_stage, saved_stage
from fastmim_jax.train.accumulation_advice import what_to_type
from fastmim_jax.train.accumulation_file import FILE, keep_accumulation
from fastmim_jax.train.accumulation_search import PER_ESTIMATE, Programs, allowed_accumulations, search
from fastmim_jax.train.pretrain import make_pretrain_stage
from fastmim_jax.train.report import describe_plan
from helpers import small
from helpers.sweeps import sweep

NUMBERS = [1, 2, 4, 8, 16, 32, 64]


def need(number):
    return 5.0 + 64 / number


@pytest.mark.parametrize("wrong_by", [0.3, 1.0, 1.4])
@pytest.mark.parametrize("limit", [100.0, 69.5, 40.0, 21.5, 13.0, 7.5, 6.0])
def test_the_smallest_number_that_fits_is_found_with_few_programs(limit, wrong_by):
    compiled = []

    def measure(number):
        compiled.append(number)
        return need(number)

    choice = search(NUMBERS, lambda n: wrong_by * need(n) / PER_ESTIMATE, measure, limit)
    assert choice.accumulation == min(n for n in NUMBERS if need(n) <= limit)
    assert len(compiled) == len(set(compiled)) <= 3


def test_nothing_fits_is_found_too():
    choice = search(NUMBERS, need, need, 5.5)
    assert choice.accumulation is None and choice.needs[64] == 6.0


def test_programs_that_cannot_be_compiled_for_their_size_count_as_too_large():
    """As on TPUs, where XLA raises."""
    choice = search(NUMBERS, lambda n: 1.0, lambda n: need(n) if need(n) < 20 else math.inf, 14.0)
    assert choice.accumulation == 8


def stage_of(devices=1, change=lambda config: None, **schedule):
    config = small.config(batch_size=64, **schedule)
    config.method.backbone.depth = 1
    change(config)
    return make_pretrain_stage(config, records=256, devices=jax.devices()[:devices])


@cache
def shared_stage(accumulation="auto"):
    """A stage on one device; those of all numbers share their compiled steps, which do not depend on it."""
    stage = stage_of(accumulation=accumulation)
    return stage if accumulation == "auto" else replace(stage, make_step=shared_stage().make_step)


@pytest.mark.slow
def test_micro_batches_fit_devices_pairs_and_norms():
    assert allowed_accumulations(shared_stage()) == [1, 2, 4, 8, 16, 32, 64]
    assert allowed_accumulations(stage_of(8)) == [1, 2, 4, 8]
    assert allowed_accumulations(stage_of(1, small.mixmim)) == [1, 2, 4, 8, 16, 32]  # pairs stay together
    one_group = stage_of(1, lambda config: small.mixmim(config).method.update(groups=1))
    assert allowed_accumulations(one_group) == [1, 2, 4, 8, 16, 32]

    def grouped(config):
        small.over("cmt", config).method.backbone.norm_groups = 8

    assert allowed_accumulations(stage_of(1, grouped)) == [1, 2, 4, 8]


@cache
def needs():
    """-> {number: bytes of the compiled step}, and the bytes beside it."""
    programs = Programs(shared_stage())
    return {number: programs.compile(number) for number in (1, 2, 4, 8)}, programs.beside()


def free_for(number):
    """-> free bytes with which a number fits and the one below does not."""
    bytes_of, beside = needs()
    below = bytes_of[number // 2] if number > 1 else 2 * bytes_of[1]
    return int(((bytes_of[number] + below) / 2 + beside) / memory.USABLE)


RANDOM = np.random.default_rng(0)
BATCH = {
    "image": RANDOM.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8),
    "flip": RANDOM.random(64) < 0.5,
}


def losses(stage, count=3):
    state, found = stage.create(), []
    for _ in range(count):
        state, metrics = stage.step(state, BATCH)
        found.append(float(metrics["loss"]))
    return found


@cache
def whole_losses():
    needs()  # compiles the step ahead
    return losses(shared_stage(1))


@pytest.mark.slow
@pytest.mark.parametrize("number", sweep([1, 2, 4, 8], [2, 4, 8]))
def test_auto_takes_the_fewest_that_fit_and_keeps_the_losses(tmp_path, number):
    lines = []
    stage = fit_stage(shared_stage(), lines.append, tmp_path, free_for(number))
    assert stage.plan.accumulation == number and stage.eval_batch_size == 64 // number
    assert "memory" in lines[0] and ("the whole batch needs about" in lines[0]) == (number > 1)
    np.testing.assert_allclose(losses(stage), whole_losses(), rtol=1e-5)
    assert Programs(stage).at(number).step.jitted._cache_size() == 0  # compiled once, ahead


@pytest.mark.slow
def test_a_run_keeps_its_number_while_it_fits(tmp_path):
    assert fit_stage(shared_stage(), print, tmp_path, free_for(4)).plan.accumulation == 4
    assert saved_stage(shared_stage(), tmp_path).plan.accumulation == 4
    assert fit_stage(shared_stage(), print, tmp_path, free_for(1)).plan.accumulation == 4
    assert fit_stage(shared_stage(), print, tmp_path, free_for(8)).plan.accumulation == 8
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text().replace('"cpu"', '"H100"'))
    assert fit_stage(shared_stage(), print, tmp_path, free_for(1)).plan.accumulation == 1


@pytest.mark.slow
def test_a_run_that_was_started_with_a_number_keeps_it_on_any_machine(tmp_path):
    keep_accumulation(tmp_path, {0: 2})
    assert saved_stage(shared_stage(), tmp_path).plan.accumulation == 2
    assert saved_stage(shared_stage(4), tmp_path).plan.accumulation == 4


@pytest.mark.slow
def test_a_number_that_does_not_fit_is_refused_with_one_that_does():
    free = int(1.2 * (needs()[0][4] + needs()[1]) / memory.USABLE)
    assert free < needs()[0][1]
    with pytest.raises(OutOfMemoryError) as error:
        fit_stage(shared_stage(1), print, None, free)
    assert " MB of memory, and " in str(error.value) and "64 images at a time" in str(error.value)
    assert "type --config.schedule.accumulation=4 (" in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "with_remat", "advice"),
    [
        ("auto", {64: 30}, ": type --config.method.remat=full, which fits (30.0 MB, compiled)"),
        (
            4,
            {4: 70, 64: 30},
            ": type --config.method.remat=full and --config.schedule.accumulation=64, which fits (30.0 MB",
        ),
        ("auto", {64: 70}, "; --config.method.remat=full does not fit either (compiled): use smaller "),
    ],
)
def test_remat_is_advised_where_it_fits(monkeypatch, number, with_remat, advice):
    def compile(programs, number):
        remat = programs.stage.config.method.remat == "full"
        programs.needs[number] = 1e6 * (with_remat.get(number, 100) if remat else 100)
        return programs.needs[number]

    monkeypatch.setattr(Programs, "compile", compile)
    monkeypatch.setattr(Programs, "estimate", lambda programs, number: 1e8)
    with pytest.raises(OutOfMemoryError) as error:
        fit_stage(stage_of(accumulation=number), print, None, 60 * 10**6)
    assert advice in str(error.value)


@pytest.mark.slow
def test_parameters_that_do_not_fit_need_a_smaller_backbone(monkeypatch):
    monkeypatch.setattr(Programs, "compile", lambda self, n: self.needs.setdefault(n, 1e8))
    stage = stage_of(accumulation=64)
    with pytest.raises(OutOfMemoryError, match="are free: use a smaller backbone$"):
        fit_stage(stage, print, None, 100_000)
    used = stage.rebuild({"method.remat": "full"})
    smaller = r"use smaller images \(config.data.image_size\) or a smaller backbone \(not checked\)$"
    with pytest.raises(OutOfMemoryError, match=smaller):
        fit_stage(used, print, None, 60 * 10**6)


@pytest.mark.slow
def test_after_an_error_the_flag_halves_the_micro_batch():
    assert what_to_type(shared_stage(4)) == "type --config.schedule.accumulation=8"
    assert "remat=full" in what_to_type(shared_stage(64))


@pytest.mark.slow
def test_the_description_says_that_the_number_is_open():
    open_number, number = (describe_plan(shared_stage(x).plan) for x in ("auto", 4))
    assert dict(open_number)["batch"] == "64, in as few parts as fit in memory"
    assert dict(number)["batch"] == "64 in 4 parts, 16 per device at a time"
