"""The time of steps, and the share of it in which the devices wait for data."""

import threading
import time

import pytest

from fastmim_jax.train.waiting import StepRates, StepTime, StepTimer, describe_waiting


class Step:
    """Outputs of a step that end when a test says so."""

    def __init__(self):
        self.ended = threading.Event()

    def block_until_ready(self):
        self.ended.wait(30)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def ended(timer, clock, step, now):
    """End a step at a time, and wait until the timer has noted it."""
    clock.now = now
    step.ended.set()
    timer._steps[0][2].result(30)


def test_only_what_outlasts_the_step_before_is_waiting():
    clock = Clock()
    timer = StepTimer(clock)
    first, second, third = Step(), Step(), Step()
    clock.now = 100.0  # workers start, the first batch comes
    timer.have()
    timer.dispatched(first)
    clock.now = 101.0
    timer.ask()
    ended(timer, clock, first, 105.0)  # while the loop waits for the second batch
    clock.now = 107.0
    timer.have()
    timer.dispatched(second)
    assert timer.finished() == StepTime(5.0, 0.0, first=True)
    timer.ask()
    clock.now = 108.0
    timer.have()  # the third batch is there before the second step ends: no waiting
    timer.dispatched(third)
    ended(timer, clock, second, 112.0)
    assert timer.finished() == StepTime(7.0, 2.0, first=False)
    ended(timer, clock, third, 117.0)
    assert timer.finished() == StepTime(5.0, 0.0, first=False)
    clock.now = 200.0  # an evaluation
    timer.resume()
    timer.ask()
    clock.now = 203.0
    timer.have()
    fourth = Step()
    timer.dispatched(fourth)
    ended(timer, clock, fourth, 210.0)
    assert timer.finished() == StepTime(10.0, 3.0, first=False)
    timer.close()


@pytest.mark.slow
def test_a_slow_reader_is_seen_and_a_fast_one_is_not():
    def share(reading, computing):
        timer, rates = StepTimer(), StepRates()
        ends = time.monotonic()
        for _ in range(12):
            timer.ask()
            time.sleep(reading)
            timer.have()
            ends = max(ends, time.monotonic()) + computing  # the device is busy until then
            step = Step()
            threading.Timer(ends - time.monotonic(), step.ended.set).start()
            timer.dispatched(step)
            if len(timer._steps) > 1:
                rates.add(timer.finished(), 1)
        timer.close()
        return rates.wait_share

    assert share(reading=0.06, computing=0.01) > 0.5
    assert share(reading=0.0, computing=0.02) < 0.1


def test_rates_are_of_all_steps_added():
    rates = StepRates()
    rates.add(StepTime(2.0, 0.5, False), 16)
    rates.add(StepTime(4.0, 1.0, False), 16)
    assert rates.values() == {"images_per_second": 32 / 6, "seconds_per_step": 3.0, "data_wait_share": 0.25}
    assert StepRates().values()["data_wait_share"] == 0


@pytest.mark.parametrize(("share", "advice"), [(0.0512, ""), (0.34, ": try more")])
def test_the_end_says_what_to_change_where_it_matters(share, advice):
    assert (
        describe_waiting(share, "try more")
        == f"the devices waited for data {share:.1%} of the time{advice}"
    )
