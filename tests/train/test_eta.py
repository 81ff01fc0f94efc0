"""The estimate of the remaining time."""

import pytest

from fastmim_jax.train.eta import RemainingTime, StageWork


def test_the_rest_is_the_mean_step_times_the_steps_left():
    left = RemainingTime([StageWork(0, 100, 7.0)])
    left.start_stage()
    assert left.seconds(1) is None
    for step in (2, 3, 4):
        left.add_step(step, 45.0)
    assert left.seconds(4) == pytest.approx(96 * 45)
    assert left.seconds(100) == 0


def test_later_stages_are_scaled_by_their_cost():
    left = RemainingTime([StageWork(0, 10, 1.0), StageWork(10, 20, 2.0), StageWork(20, 30, 4.0)])
    left.start_stage()
    left.add_step(2, 3.0)
    assert left.seconds(2) == pytest.approx(8 * 3 + 10 * 6 + 10 * 12)
    left.start_stage()
    assert left.seconds(11) == pytest.approx(9 * 6 + 10 * 12)
    left.add_step(12, 5.0)  # from now on its own time counts
    assert left.seconds(12) == pytest.approx(8 * 5 + 10 * 10)


def test_evaluations_count_as_often_as_they_come():
    left = RemainingTime([StageWork(0, 100, 1.0)])
    left.add_step(2, 1.0)
    left.add_event("evaluation", 30, 50.0)  # after 30, 60, 90 and 100
    assert left.seconds(30) == pytest.approx(70 + 3 * 50)
    left.add_event("evaluation", 30, 10.0)  # the first time was slow
    assert left.seconds(60) == pytest.approx(40 + 2 * 10)
    assert left.seconds(99) == pytest.approx(1 + 10)
