"""The progress line, and the time that is left: in log files, on a terminal, with steps of any length."""

import io
import os
import re
import threading
import time
from concurrent.futures import Executor, Future
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from fastmim_jax.data.undecodable import UndecodableRecords
from fastmim_jax.plan import StagePlan
from fastmim_jax.train.loop import Loop
from fastmim_jax.train.progress import ProgressLine, format_seconds
from fastmim_jax.train.stop_signal import StopSignal
from fastmim_jax.train.waiting import StepTimer
from helpers import small

VALUES = {"loss": 0.5, "lr": 1e-3, "images_per_second": 1234.0, "data_wait_share": 0.021}


@pytest.fixture
def log():
    return Console(file=io.StringIO(), highlight=False, soft_wrap=True)


def lines_of(console):
    return console.file.getvalue().splitlines()


def test_without_a_terminal_there_are_plain_lines_now_and_then(log):
    now = [0.0]
    line = ProgressLine(0, 100, lambda: now[0], log)
    for step in range(1, 101):
        now[0] += 1.0
        line.show(step, VALUES, 100.0 - step if step > 1 else None)
    line.close()
    found = lines_of(log)
    assert len(found) == 11  # the first, one in ten seconds, and the last
    start = "  loss 0.5000  lr 1.00e-03  1,234 images/s  data wait 2%  ETA "
    assert found[0] == f"step 1/100{start}-:--" and found[1] == f"step 11/100{start}1:29"


def test_a_log_file_says_that_a_long_step_still_runs(log):
    line = ProgressLine(0, 9, console=log, silence=0.02)
    until = time.monotonic() + 30
    while len(lines_of(log)) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    line.begin("evaluation after step 1")
    while "evaluation" not in lines_of(log)[-1] and time.monotonic() < until:
        time.sleep(0.01)
    line.close()
    assert lines_of(log)[0] == "step 1: 0 s so far"
    assert lines_of(log)[-1] == "evaluation after step 1: 0 s so far"


@pytest.mark.parametrize(("seconds", "text"), [(59.6, "1:00"), (3723, "1:02:03"), (0, "0:00")])
def test_times(seconds, text):
    assert format_seconds(seconds) == text


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Inline(Executor):
    """Runs at once what it is given, so that a simulated clock is read in order."""

    def submit(self, function, *args):
        future = Future()
        future.set_result(function(*args))
        return future


class SlowStage:
    """A stage whose steps take 45 s of a simulated clock, and whose first batch comes after a minute."""

    def __init__(self, clock, stop, last):
        self.clock, self.stop, self.last = clock, stop, last
        numbers = dict.fromkeys(StagePlan.__dataclass_fields__, 0)
        numbers |= dict(records=64, batch_size=16, stages=1, last_step=40, total_steps=40)
        self.plan = StagePlan(**{**numbers, "image_size": (32, 32)})
        run = small.config().run
        run.update(log_every=10, checkpoint_every=0, max_failed_saves=1)
        self.config = SimpleNamespace(seed=0, run=run)
        self.reader, self.abstract, self.step = SimpleNamespace(workers=0), None, self
        self.done = 0

    def loader(self, *_, **__):
        return self

    def __enter__(self):
        self.clock.now += 60
        return self

    def __exit__(self, *_):
        pass

    def __iter__(self):
        return iter(lambda: {"num_undecodable": np.zeros(16, int), "index": np.arange(16)}, None)

    def to_devices(self, batch, _):
        return batch

    def compile(self, *_):
        self.clock.now += 90

    def __call__(self, state, batch):
        self.clock.now += 45
        self.done += 1
        self.stop.name = "SIGTERM" if self.done == self.last else None
        return state, {"loss": np.float32(1), "lr": np.float32(1), "skipped_in_row": np.int32(0)}


def train_slowly(workdir, steps):
    clock, stop = Clock(), StopSignal()
    stage = SlowStage(clock, stop, steps)
    metrics = ProgressLine(0, 40, clock)
    metrics.write = metrics.flush = lambda *_: None
    metrics.check = lambda: ""
    checkpoints = SimpleNamespace(
        save=lambda *_: None,
        wait=lambda: None,
        take_failures=list,
        failed_in_a_row=0,
    )
    undecodable = UndecodableRecords(range(64), 0.5, workdir / "bad.txt", 3)
    timer = StepTimer(clock, Inline())
    loop = Loop([stage], {}, checkpoints, metrics, undecodable, stop, timer, clock)
    loop.run_stage(stage, None, 0, None, [])
    metrics.close()


def seconds_of(text):
    parts = [int(part) for part in text.split(":")]
    return sum(part * 60**power for power, part in enumerate(reversed(parts)))


def test_steps_of_45_seconds_have_an_eta_in_a_log(tmp_path, capsys):
    train_slowly(tmp_path, 4)
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert "  0.36 images/s" in found[0] and found[0].endswith("ETA -:--")
    for step, line in enumerate(found[1:3], start=2):
        left = seconds_of(re.search(rf"^step {step}/40 .* ETA (\S+)$", line)[1])
        assert left == pytest.approx((40 - step) * 45, rel=0.1)


def test_steps_of_45_seconds_have_an_eta_on_a_terminal(tmp_path, monkeypatch):
    master, slave = os.openpty()
    drawn = []

    def read():
        while chunk := os.read(master, 4096):
            drawn.append(chunk)
            if b"END" in chunk:
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        train_slowly(tmp_path, 3)
        terminal.write("END")
        terminal.flush()
        reader.join(30)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", b"".join(drawn).decode())
    last = [line for line in re.split(r"[\r\n]+", text) if line.startswith("step ")][-1]
    left = re.search(r"^step 3/40 .* ETA (\S+)", last)[1]
    assert seconds_of(left) == pytest.approx(37 * 45, rel=0.1)
