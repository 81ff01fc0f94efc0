"""A signal ends a run, wherever the main thread is."""

import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from fastmim_jax.train import stop_signal
from fastmim_jax.train.stop_signal import Stopped, StopSignal


class Left(BaseException):
    """Stands for the end of the process."""


class Process:
    """The end of the process and its lines."""

    def __init__(self):
        self.code, self.lines, self.ended = None, [], threading.Event()

    def leave(self, code):
        self.code = code
        self.ended.set()
        raise Left  # ends the listening thread

    def stop(self, grace=100.0):
        return StopSignal(grace, self.lines.append, self.leave)


@pytest.fixture
def process():
    return Process()


@pytest.fixture(autouse=True)
def ended_threads(monkeypatch):
    monkeypatch.setattr(stop_signal, "SECONDS_TO_LEAVE", 0.05)
    monkeypatch.setattr(stop_signal, "_TICK", 0.01)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)


def send(number):
    os.kill(os.getpid(), number)


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    assert condition()


@pytest.mark.parametrize("number", stop_signal.SIGNALS)
def test_a_loop_sees_the_first_signal_and_stops_by_itself(process, number):
    before = signal.getsignal(number)
    with process.stop() as stop:
        assert stop.name is None
        send(number)
        wait_for(lambda: stop.name)
        assert stop.name == number.name
    assert process.code is None and signal.getsignal(number) == before
    assert process.lines == [
        f"{number.name}: the run stops as soon as its last step is saved; Ctrl-C ends it at once"
    ]


def test_ctrl_c_after_any_signal_ends_at_once(process):
    with process.stop() as stop:
        send(signal.SIGTERM)
        wait_for(lambda: stop.name)
        send(signal.SIGTERM)  # a scheduler may repeat it
        time.sleep(0.05)
        assert process.code is None
        send(signal.SIGINT)
        process.ended.wait(30)
    assert process.code == 143 and "at once" in process.lines[-1]


def test_with_nothing_to_save_the_block_is_left(process):
    with process.stop() as stop, pytest.raises(Stopped) as error, stop.nothing_to_save():
        send(signal.SIGHUP)
        time.sleep(30)
    assert error.value.code == 129


def test_a_signal_before_the_block_counts(process):
    with process.stop() as stop:
        send(signal.SIGINT)
        wait_for(lambda: stop.name)
        with pytest.raises(Stopped), stop.nothing_to_save():
            raise AssertionError("the block began")


def test_a_library_that_does_not_return_is_left_behind(process):
    """Python's handler cannot run while a compiler holds the main thread; here it does nothing."""
    with process.stop() as stop:
        stop._safe = True
        signal.signal(signal.SIGTERM, lambda *_: None)
        send(signal.SIGTERM)
        process.ended.wait(30)
    assert process.code == 143 and process.lines[-1] == "stopped by SIGTERM: there was nothing to save"


def test_a_long_evaluation_is_given_up_for_the_checkpoint(process):
    saved = []
    with process.stop(grace=0.1) as stop, stop.rescued_by(lambda: saved.append("state")):
        send(signal.SIGTERM)
        process.ended.wait(30)
    assert saved == ["state"] and process.code == 143


def test_a_short_evaluation_ends_before_the_loop_saves(process):
    saved = []
    with process.stop(grace=100) as stop:
        with stop.rescued_by(lambda: saved.append("state")):
            send(signal.SIGTERM)
            wait_for(lambda: stop.name)
        time.sleep(0.05)
    assert saved == [] and process.code is None


def test_a_run_that_hangs_ends_in_the_end(process):
    with process.stop(grace=0.01):
        send(signal.SIGTERM)
        process.ended.wait(30)
    assert process.code == 143 and "was not saved within" in process.lines[-1]


def test_another_thread_hears_nothing_and_changes_no_handler(process):
    def enter():
        with process.stop() as stop:
            names.append(stop.name)

    names, before = [], signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert names == [None] and signal.getsignal(signal.SIGTERM) == before


def test_a_stop_that_python_ignores_ends_the_process(process, monkeypatch):
    """As in a callback of the garbage collector, where an exception is only printed."""
    others = []
    monkeypatch.setattr(sys, "unraisablehook", others.append)
    error = SimpleNamespace(exc_value=ValueError())
    with process.stop():
        sys.unraisablehook(error)
        with pytest.raises(Left):
            sys.unraisablehook(SimpleNamespace(exc_value=Stopped("SIGTERM")))
    assert process.code == 143 and others == [error]
    sys.unraisablehook(error)
    assert others == [error, error]
