"""All processes stop after the same step, whoever received a signal and when."""

import random
import time
from types import SimpleNamespace

import pytest

from fastmim_jax.train.agreement import StopAgreement
from helpers.connected import connect, together

STAGES = (5, 9)  # last steps


def run(peer, signals, seed):
    """Take steps as the loop does; -> (the step of the end, the signal)."""
    stop, chance = SimpleNamespace(name=None), random.Random(seed)
    agreement, step = StopAgreement(stop, peer), 0
    for last in STAGES:
        while step < last and not agreement.stopping(step):
            step += 1
            time.sleep(chance.uniform(0, 0.002))
            if signals.get(peer.process) == step:
                stop.name = "SIGTERM"
                peer.tell_stop(stop.name)
        agreement.end_stage(step)
        if agreement.stopped:
            break
    return step, stop.name


@pytest.mark.parametrize("seed", range(12))
def test_processes_stop_after_one_step(seed):
    chance = random.Random(seed)
    peers, left = connect(3)
    signals = {number: chance.randint(1, 9) for number in range(3) if chance.random() < 0.5}
    ends = together(lambda peer: run(peer, signals, seed + peer.process), peers)
    assert len(set(ends)) == 1, ends
    step, name = ends[0]
    if not signals:
        assert (step, name) == (9, None)
    elif min(signals.values()) < 9:
        assert step >= min(signals.values()) and name == "SIGTERM"
    for peer in peers:
        peer.close()
    assert [end.code for end in left] == [None] * 3


def test_a_process_alone_decides_alone():
    stop = SimpleNamespace(name=None)
    agreement = StopAgreement(stop, None)
    assert not agreement.stopping(3)
    agreement.end_stage(3)
    stop.name = "SIGINT"
    assert agreement.stopping(3) and agreement.stopped
