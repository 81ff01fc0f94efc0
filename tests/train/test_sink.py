"""Files written in the background: in order, again after a failure, never in the way."""

import threading
import time

import pytest

from fastmim_jax.train import sink


@pytest.fixture(autouse=True)
def quick_tries(monkeypatch):
    monkeypatch.setattr(sink, "SECONDS_BETWEEN_TRIES", 0.005)


class Disk:
    """Keeps what is written; full while `full` is set."""

    def __init__(self):
        self.items, self.full, self.tries = [], False, 0

    def write(self, item):
        self.tries += 1
        if self.full:
            raise OSError(28, "No space left on device")
        self.items.append(item)


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition() and time.monotonic() < until:
        time.sleep(0.002)
    assert condition()


def test_items_of_a_full_disk_are_written_in_order_once_there_is_space():
    disk = Disk()
    lines = sink.Sink(disk.write, clock=lambda: 7.0)
    lines.put(0)
    lines.flush(30)
    disk.full = True
    for item in range(1, 5):
        lines.put(item)
    wait_for(lambda: disk.tries > 4)
    assert lines.trouble == (7.0, "No space left on device") and disk.items == [0]
    disk.full = False
    lines.flush(30)
    assert disk.items == list(range(5)) and lines.trouble is None
    lines.close()
    assert lines.lost == 0


def test_what_cannot_be_tried_again_is_given_up_and_counted():
    disk = Disk()
    disk.full = True
    board = sink.Sink(disk.write, retry=False)
    for item in range(3):
        board.put(item)
    board.close()
    assert (board.lost, disk.tries) == (3, 1)


def test_a_write_that_never_returns_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(sink, "SECONDS_TO_CLOSE", 0.01)
    never = threading.Event()
    lines = sink.Sink(lambda item: never.wait())
    for item in range(3):
        lines.put(item)
    lines.flush(0.01)
    lines.close()
    assert lines.lost >= 2
    never.set()
