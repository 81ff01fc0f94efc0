"""The numbers that follow from a config: of one stage, and of several."""

import pytest

from fastmim_jax.config import pretrain_config
from fastmim_jax.errors import UserError
from fastmim_jax.plan import make_pretrain_plan, plan_warnings
from fastmim_jax.stages import at_stage, stage_count

IMAGENET = 1_281_167


def num_masked(blocks):
    """Three quarters of the blocks."""
    return blocks - int(blocks * 0.25)


GRID = dict(stride=16, num_masked=num_masked, devices=8)


def plans(config, records=IMAGENET):
    return [
        make_pretrain_plan(config, records=records, stage=stage, **GRID)
        for stage in range(stage_count(config))
    ]


def test_the_published_recipe_in_numbers():
    plan = make_pretrain_plan(pretrain_config(), records=IMAGENET, **GRID)
    assert plan.peak_lr == pytest.approx(2.4e-3)  # 1.5e-4 x 4096 / 256
    assert plan.grid == plan.blocks == (8, 8) and plan.num_masked == 48
    assert plan.total_steps == plan.last_step == 800 * IMAGENET // 4096
    assert plan.epoch(plan.total_steps) == pytest.approx(800, abs=0.01)


def test_steps_replace_epochs_and_warmup_fits_into_them():
    config = pretrain_config()
    config.schedule.update(steps=100, batch_size=64)
    plan = make_pretrain_plan(config, records=640, **GRID)
    assert plan.total_steps == 100 and plan.warmup_epochs == pytest.approx(10)


def test_all_learning_rates_follow_the_linear_rule():
    config = pretrain_config()
    config.schedule.batch_size = 1024
    config.optimizer.update(base_lr=5e-5, warmup_base_lr=2.5e-7, min_base_lr=1e-6)
    plan = make_pretrain_plan(config, records=IMAGENET, **GRID)
    assert (plan.peak_lr, plan.warmup_lr, plan.min_lr) == pytest.approx((2e-4, 1e-6, 4e-6))


def test_stages_follow_one_another_without_a_gap():
    config = pretrain_config()
    config.stages.update(image_sizes=(128, 160, (192, 96)), batch_sizes=(4096, 2048, 1024))
    first, second, third = plans(config)
    for before, after in ((first, second), (second, third)):
        assert after.first_step == before.last_step
        assert after.first_record == before.record(before.last_step)
        assert after.epoch(after.first_step) == pytest.approx(before.epoch(before.last_step))
        assert after.total_epochs == before.total_epochs
    # Thirds of 800 epochs, to half a batch.
    assert first.epoch(first.last_step) == pytest.approx(800 / 3, abs=4096 / IMAGENET)
    assert third.total_epochs == third.epoch(third.last_step) == pytest.approx(800, abs=0.01)
    assert [plan.peak_lr for plan in (first, second, third)] == pytest.approx([2.4e-3, 1.2e-3, 0.6e-3])
    assert [plan.grid for plan in (first, second, third)] == [(8, 8), (10, 10), (12, 6)]
    assert third.image_size == (192, 96)


def test_given_starts_blocks_and_accumulations():
    config = pretrain_config()
    config.stages.update(
        image_sizes=(128, 192), start_epochs=(0, 600), block_sizes=(16, 32), accumulations=(1, 4)
    )
    first, second = plans(config)
    assert first.epoch(first.last_step) == pytest.approx(600, abs=4096 / IMAGENET)
    assert first.blocks == (8, 8) and second.blocks == (6, 6) and second.grid == (12, 12)
    assert first.accumulation == 1 and second.accumulation == 4
    assert at_stage(config, 1).data.image_size == (192, 192)
    assert at_stage(config, 0).schedule.epochs == config.schedule.epochs


@pytest.mark.parametrize("batches", [(), (64, 128)])
def test_a_number_of_steps_is_spread_over_equally_many_epochs(batches):
    config = pretrain_config()
    config.schedule.update(steps=90, batch_size=64)
    config.stages.update(image_sizes=(64, 96), batch_sizes=batches)
    first, second = plans(config, 1000)
    assert (first.last_step, second.last_step) == ((60, 90) if batches else (45, 90))


def test_a_stage_without_an_update_is_refused():
    config = pretrain_config()
    config.schedule.batch_size = 64
    config.stages.update(image_sizes=(64, 96), start_epochs=(0, 900))
    with pytest.raises(UserError, match="stage 2 of 2 has no update: raise --config.schedule.epochs"):
        plans(config, 1000)


@pytest.mark.parametrize(
    ("records", "schedule", "warning"),
    [
        (640, dict(batch_size=64, epochs=10.0, warmup_epochs=2.0), None),
        (
            640,
            dict(batch_size=64, epochs=10.0, warmup_epochs=2.5),
            "the warm-up takes 2.5 of 10 epochs, more than a fifth of the run: type "
            "--config.schedule.warmup_epochs=0.5, or",
        ),
        (
            100,
            dict(batch_size=256, steps=300, warmup_epochs=5.0),
            "a batch of 256 holds some of the 100 images more than once: type",
        ),
        (
            6400,
            dict(batch_size=64, steps=50, warmup_epochs=0.05),
            "the run ends after 0.5 of an epoch, before",
        ),
    ],
)
def test_schedules_that_the_data_is_too_small_for_are_named(records, schedule, warning):
    config = pretrain_config()
    config.schedule.update(schedule)
    sentences = plan_warnings(make_pretrain_plan(config, records=records, **GRID))
    assert [sentence.startswith(warning) for sentence in sentences] == [True] * (warning is not None)
