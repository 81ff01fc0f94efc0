"""All processes stop after the same unit of work, whoever received a signal and when."""

import random
import threading
import time
from types import SimpleNamespace

import pytest

from fastmim_jax.train.agreement import GivenUp, StopAgreement, begin_unit
from helpers.connected import connect, together

STAGES = (5, 9)  # last steps
EVALUATED, BATCHES = 3, 4  # steps between evaluations, and their batches


class Devices:
    """Programs that end when every process has dispatched them; a process waits for all but its last."""

    def __init__(self, count):
        self._dispatched, self._changed = [0] * count, threading.Condition()

    def dispatch(self, process, behind):
        """Dispatch a program and wait for the one so many before it."""
        with self._changed:
            self._dispatched[process] += 1
            wanted = self._dispatched[process] - behind
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: min(self._dispatched) >= wanted, 30), "a hang"


def evaluate(peer, devices):
    for _ in range(BATCHES):
        begin_unit()
        devices.dispatch(peer.process, behind=0)


def run(peer, devices, signals, seed):
    """Take steps as the loop does; -> (last step, the signal, step of an evaluation that was given up)."""
    stop, chance = SimpleNamespace(name=None), random.Random(seed)
    agreement, step, given_up = StopAgreement(stop, peer), 0, None

    def receive():
        time.sleep(chance.uniform(0, 0.004))
        stop.name = "SIGTERM"
        peer.tell_stop(stop.name)

    for last in STAGES:
        while step < last and agreement.begin():
            if signals.get(peer.process) == step:
                threading.Thread(target=receive).start()
            devices.dispatch(peer.process, behind=1)
            step += 1
            if step % EVALUATED == 0:
                try:
                    with agreement.evaluation():
                        evaluate(peer, devices)
                except GivenUp:
                    given_up = step
        agreement.end_stage()
        if agreement.stopped:
            break
    return step, stop.name if agreement.stopped else None, given_up


@pytest.mark.parametrize("seed", range(16))
def test_processes_stop_after_one_step_or_batch(seed):
    chance = random.Random(seed)
    peers, left = connect(3)
    for peer in peers:  # the word of a signal takes longer than a step
        peer.on_stop = lambda name: time.sleep(0.003)
    signals = {number: chance.randint(0, 7) for number in range(3) if chance.random() < 0.5}
    devices = Devices(3)
    ends = together(lambda peer: run(peer, devices, signals, seed + peer.process), peers)
    assert len(set(ends)) == 1, ends
    step, name, given_up = ends[0]
    if not signals:
        assert (step, name, given_up) == (9, None, None)
    elif name:
        assert step >= min(signals.values()) and name == "SIGTERM"
        assert given_up in (None, step)
    for peer in peers:
        peer.close()
    assert [end.code for end in left] == [None] * 3


def test_an_evaluation_of_several_is_not_begun_after_a_signal():
    peers, _ = connect(2)

    def refused(peer):
        agreement = StopAgreement(SimpleNamespace(name=None), peer)
        assert agreement.begin()
        peer.tell_stop("SIGINT")
        with pytest.raises(GivenUp), agreement.evaluation():
            raise AssertionError("begun")
        begin_unit()  # outside of an evaluation there is nothing to give up
        agreement.end_stage()
        return agreement.stopped

    assert together(refused, peers) == [True, True]
    for peer in peers:
        peer.close()


def test_a_process_alone_decides_alone():
    stop = SimpleNamespace(name=None)
    agreement = StopAgreement(stop, None)
    assert agreement.begin()
    agreement.end_stage()
    stop.name = "SIGINT"
    assert not agreement.begin() and agreement.stopped
    with agreement.evaluation():
        begin_unit()
