"""Signals in every phase: the step is saved, the exit code is 128 + n, the next start resumes."""

import os
import signal
import time
from collections.abc import Callable

from case import Case

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


def training(number: signal.Signals, again: float | None = None) -> Callable[[Case], None]:
    """Return a case with a signal at step 12, maybe sent again after some seconds."""

    def run(case: Case) -> None:
        run = case.start()
        case.until(run, lambda: case.step() >= 12)
        run.send(number)
        if again is not None:
            time.sleep(again)
            run.send(number)
        case.end(run, (128 + number,), seconds=30, said="" if again and number == INT else "stopped by")
        case.resumes(lost_at_most=10 if again and number == INT else 0)

    return run


def to_the_group(number: signal.Signals) -> Callable[[Case], None]:
    """Return a case with a signal to all processes of the run, workers too."""

    def run(case: Case) -> None:
        run = case.start("--config.run.workers=2")
        case.until(run, lambda: case.step() >= 12)
        os.killpg(run.pid, number)
        case.end(run, (128 + number,), seconds=30, said="stopped by")
        case.resumes(lost_at_most=0)

    return run


def when_printed(text: str, number: signal.Signals = TERM, seconds: float = 30) -> Callable[[Case], None]:
    """Return a case with a signal as soon as a run has printed a text."""

    def run(case: Case) -> None:
        run = case.start()
        case.until(run, lambda: text in run.output)
        run.send(number)
        case.end(run, (128 + number,), seconds)
        case.resumes(lost_at_most=0)

    return run


def at_the_start(case: Case) -> None:
    """SIGTERM before anything is written."""
    run = case.start()
    time.sleep(0.3)
    run.send(TERM)
    case.end(run, (-TERM, 143), seconds=30)


def while_compiling(case: Case) -> None:
    """SIGTERM as soon as the settings are printed; -15 if the run does not listen yet."""
    run = case.start()
    case.until(run, lambda: "masked blocks" in run.output)
    run.send(TERM)
    case.end(run, (143, -TERM), seconds=30)
    case.resumes(lost_at_most=0)


def in_an_evaluation(case: Case) -> None:
    """SIGTERM after the last step before an evaluation."""
    run = case.start()
    case.until(run, lambda: case.step() >= 19)
    run.send(TERM)
    case.end(run, (143,), seconds=30, said="stopped by")
    case.resumes(lost_at_most=0)


def in_a_save(case: Case) -> None:
    """SIGTERM while a checkpoint is being written."""
    run = case.start()
    case.until(run, lambda: any((case.workdir / "checkpoints").glob("*orbax-checkpoint-tmp*")))
    run.send(TERM)
    case.end(run, (143,), seconds=30, said="stopped by")
    case.resumes(lost_at_most=0)


ROWS = {
    "SIGTERM at the start": at_the_start,
    "SIGTERM while compiling": while_compiling,
    "SIGTERM in an evaluation": in_an_evaluation,
    "SIGTERM while drawing": when_printed("step 20  eval_loss"),
    "SIGTERM in a save": in_a_save,
    "SIGTERM": training(TERM),
    "SIGTERM twice": training(TERM, again=0.05),
    "SIGHUP": training(HUP),
    "Ctrl-C": training(INT),
    "Ctrl-C twice": training(INT, again=0.1),
    "SIGTERM to the group": to_the_group(TERM),
    "SIGHUP to the group": to_the_group(HUP),
    "SIGINT to the group": to_the_group(INT),
}
