"""The part of a timed process that both sides share: talking to run.py, and the stopwatch.

A worker prints lines that start with "@"; run.py answers on its standard input:

    @need GB      may I occupy so much device memory?       run.py answers when it is free
    @ready GB     prepared; may I have the machine alone?   run.py stops the other workers and answers
    @shared       the machine may be shared again; I keep my device memory
    @done         the machine may be shared again; I freed my device memory
    @flops N      matrix FLOPs of a training step, per image
    @result JSON  figures
    @text JSON    [file name, text] for the output folder
"""

import json
import math
import statistics
import sys
import time

WARMUP_STEPS, GROUPS, GROUP_SECONDS = 3, 5, 0.6


def say(word, value=""):
    """Send a line to run.py."""
    print(f"@{word} {value}".rstrip(), flush=True)


def ask(word, gigabytes):
    """Send a request to run.py and wait until it is granted."""
    say(word, gigabytes)
    if not sys.stdin.readline():
        raise SystemExit("run.py is gone")


def finish(result):
    """Report figures."""
    say("result", json.dumps(result))


def time_steps(step, wait, warmup=WARMUP_STEPS, groups=GROUPS, seconds=GROUP_SECONDS):
    """Return (median, least, largest) milliseconds of a step, and the steps in a group.

    Args:
      step: () -> None, starts a step.
      wait: () -> None, waits until all steps are done.
      warmup: steps before the first timed one.
      groups: timed groups of steps; every figure is a group's mean.
      seconds: least duration of a group.
    """
    for _ in range(warmup):
        step()
    wait()
    start = time.perf_counter()
    step()
    wait()
    count = min(20, max(1, math.ceil(seconds / (time.perf_counter() - start))))
    times = []
    for _ in range(groups):
        start = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        times.append(1e3 * (time.perf_counter() - start) / count)
    return (statistics.median(times), min(times), max(times)), count


def figures(times, count, batch):
    """Return the figures of `time_steps` by name."""
    median, least, largest = times
    return {
        "ms": round(median, 3),
        "ms_min": round(least, 3),
        "ms_max": round(largest, 3),
        "steps_in_group": count,
        "img_s": round(1e3 * batch / median, 1),
    }


def out_of_memory(error):
    """Return whether an exception says that the device's memory is full."""
    text = f"{type(error).__name__} {error}"
    return any(word in text for word in ("RESOURCE_EXHAUSTED", "OutOfMemoryError", "out of memory"))
