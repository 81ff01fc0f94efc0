"""Stop and kill tiny runs of two and of four real processes, again and again.

    python experiments/pod/tries.py                    # 20 tries of every mode; those made before count
    python experiments/pod/tries.py --tries=3 --modes="2 processes"     # of modes that begin so
    python experiments/pod/tries.py --table            # results.jsonl as a table

A try fine-tunes a tiny ViT in processes on 127.0.0.1, sends the signals, waits for the ends, and starts the
same command again: every metric must equal, to the bit, that of an undisturbed run of as many processes.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from helpers.labelled_images import write_splits  # noqa: E402
from helpers.processes import Run, lines, losses, write_config  # noqa: E402

RESULTS = Path(__file__).parent / "results.jsonl"
STEPS, EVALUATED, DUE = 24, 12, 4  # of a run; between evaluations; between checkpoints that are due
PEER_TIMEOUT, HANG = 10, 90  # seconds
CHANGES = f"""
    config.schedule.steps = {STEPS}
    config.run.update(eval_epochs=2.0, picture_every=0, peer_timeout_seconds={PEER_TIMEOUT})
"""
COUNTS = (2, 4)
SENDERS = ("one", "all at once", "all 0.03 to 0.2 s apart")
MOMENTS = ("compiling", "training", "training, a checkpoint due", "evaluating")


class Problem(Exception):
    """Something that should not have happened."""


class Pod:
    """The data, the config and the undisturbed run of every number of processes."""

    def __init__(self, folder: Path):
        self.folder = folder
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache")
        images = write_splits(folder / "images", 32, 130)
        self.config = write_config(folder, images, CHANGES, "finetune")
        self._metrics: dict[int, dict] = {}

    def start(self, workdir: Path, count: int, *flags: str, **environment: str) -> list[Run]:
        """Start so many processes of one run."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        words = ["finetune", self.config, f"--workdir={workdir}", f"--coordinator=127.0.0.1:{port}"]
        words += [f"--processes={count}", *flags]
        return [Run([*words, f"--process={number}"], environment) for number in range(count)]

    def metrics(self, count: int) -> dict:
        """Return the metrics of an undisturbed run."""
        if count not in self._metrics:
            workdir = self.folder / f"undisturbed_{count}"
            finish(self.start(workdir, count), (0,) * count, 300)
            self._metrics[count] = losses(workdir)
        return self._metrics[count]


def finish(runs: list[Run], codes: tuple[int, ...], seconds: float) -> list[str]:
    """Wait for the ends of runs -> what they printed; raise a Problem if one hangs or ends otherwise."""
    end, outputs, problems = time.monotonic() + seconds, [], []
    for number, (run, expected) in enumerate(zip(runs, codes, strict=True)):
        try:
            code, output = run.wait(max(0.1, end - time.monotonic()))
        except AssertionError:
            problems.append(f"process {number} hung for {seconds} s")
            continue
        outputs.append(output)
        if code != expected:
            problems.append(f"process {number}: exit code {code}, expected {expected}: {output[-400:]}")
        if "Traceback" in output:
            problems.append(f"process {number}: traceback: {output[-400:]}")
    if problems:
        raise Problem("; ".join(problems))
    return outputs


def wait_until(condition: Callable[[], bool], runs: list[Run]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + 120
    while not condition():
        if not all(run.running for run in runs) or time.monotonic() > end:
            raise Problem(f"ended before the signal: {[run.output[-200:] for run in runs]}")
        time.sleep(0.005)


def last_step(workdir: Path) -> int:
    """Return the last step that was logged with a loss."""
    return max((line["step"] for line in lines(workdir) if "loss" in line), default=0)


def saved_steps(workdir: Path) -> list[int]:
    """Return the steps of complete checkpoints."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


def wait_for(moment: str, runs: list[Run], workdir: Path, chance: random.Random) -> None:
    """Wait for the moment of the signal."""
    if moment == "compiling":
        wait_until((workdir / "config.json").exists, runs)
        time.sleep(chance.uniform(0, 3))
        return
    step = {
        "training": chance.choice([*range(1, EVALUATED - 1), *range(EVALUATED + 1, STEPS - 2)]),
        "training, a checkpoint due": DUE * chance.randrange(1, STEPS // DUE),
        "evaluating": chance.choice([EVALUATED, STEPS]),
    }[moment]
    wait_until(lambda: last_step(workdir) >= step, runs)
    time.sleep(chance.uniform(0, 0.3) if moment == "evaluating" else 0)


def stop(pod: Pod, workdir: Path, chance: random.Random, count: int, sender: str, moment: str) -> dict:
    """Send SIGTERM, and resume -> figures of the try."""
    every = DUE if "due" in moment else 0
    environment = {"JAX_ENABLE_COMPILATION_CACHE": "false"} if moment == "compiling" else {}
    flags = [f"--config.run.checkpoint_every={every}"]
    runs = pod.start(workdir, count, *flags, **environment)
    wait_for(moment, runs, workdir, chance)
    receivers = [chance.randrange(count)] if sender == "one" else chance.sample(range(count), count)
    for number in receivers:
        with contextlib.suppress(ProcessLookupError):  # another one's signal has ended it
            runs[number].send(signal.SIGTERM)
        time.sleep(chance.uniform(0.03, 0.2) if "apart" in sender else 0)
    began = time.monotonic()
    outputs = finish(runs, (143,) * count, HANG)
    figures: dict[str, Any] = {"seconds": round(time.monotonic() - began, 2)}
    figures["given_up"] = "the evaluation is given up" in outputs[0]
    saved, logged = saved_steps(workdir), last_step(workdir)
    figures["step"] = max(saved, default=0)
    if logged and figures["step"] != logged:
        raise Problem(f"step {figures['step']} was saved, {logged} logged: {outputs[0][-300:]}")
    if moment != "compiling" or logged:
        resume(pod, workdir, count, flags)
    return figures


def kill(pod: Pod, workdir: Path, chance: random.Random, count: int) -> dict:
    """Send SIGKILL to one, and resume -> figures of the try."""
    flags = [f"--config.run.checkpoint_every={DUE}"]
    runs, victim = pod.start(workdir, count, *flags), chance.randrange(count)
    wait_for(chance.choice(["training", "evaluating"]), runs, workdir, chance)
    runs[victim].send(signal.SIGKILL)
    began = time.monotonic()
    codes = tuple(-9 if number == victim else 1 for number in range(count))
    outputs = finish(runs, codes, PEER_TIMEOUT + 5)
    seconds = round(time.monotonic() - began, 2)
    for number, output in enumerate(outputs):
        if number != victim and f"process {victim} on" not in output:
            raise Problem(f"process {number} does not name process {victim}: {output[-300:]}")
    resume(pod, workdir, count, flags)
    return {"seconds": seconds, "victim": victim}


def resume(pod: Pod, workdir: Path, count: int, flags: list[str]) -> None:
    """Start the run again, to its end, and compare its metrics with those of the undisturbed one."""
    finish(pod.start(workdir, count, *flags), (0,) * count, 300)
    expected, found = pod.metrics(count), losses(workdir)
    wrong = [key for key in {*expected, *found} if found.get(key) != expected.get(key)]
    if wrong:
        shown = [(key, found.get(key), expected.get(key)) for key in sorted(wrong)[:3]]
        raise Problem(f"{len(wrong)} metrics differ: {shown}")


def modes() -> dict[str, Callable[[Pod, Path, random.Random], dict]]:
    """Return {name: function} of all modes."""
    found: dict[str, Callable] = {}
    for count in COUNTS:
        for moment in MOMENTS:
            for sender in SENDERS:
                found[f"{count} processes: SIGTERM to {sender}, {moment}"] = (
                    lambda *args, options=(count, sender, moment): stop(*args, *options)
                )
        found[f"{count} processes: SIGKILL of one"] = lambda *args, count=count: kill(*args, count)
    return found


def make_try(name: str, number: int, pod: Pod, results: Path) -> bool:
    """Make a try and append its result -> whether it held."""
    chance, workdir = random.Random(f"{name} {number}"), Path(tempfile.mkdtemp(dir=pod.folder)) / "run"
    line: dict[str, Any] = {"mode": name, "try": number, "held": True}
    try:
        line |= modes()[name](pod, workdir, chance)
    except Problem as problem:
        line |= {"held": False, "problem": str(problem)}
    except Exception:
        line |= {"held": False, "problem": traceback.format_exc()[-800:]}
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print("held" if line["held"] else f"FAILED ({workdir})", name, line, flush=True)
    if line["held"]:
        shutil.rmtree(workdir.parent)
    return bool(line["held"])


def read_results(path: Path) -> dict[str, list[dict]]:
    """Return {mode: its tries}."""
    tries = collections.defaultdict(list)
    for line in path.read_text().splitlines() if path.exists() else []:
        tries[json.loads(line)["mode"]].append(json.loads(line))
    return tries


def table(tries: dict[str, list[dict]]) -> str:
    """Return the results as a Markdown table."""
    rows = [
        "| mode | held | seconds from signal to end: median, most | evaluations given up |",
        "|---|---|---|---|",
    ]
    for name in modes():
        found = tries.get(name, [])
        seconds = sorted(line["seconds"] for line in found if "seconds" in line)
        times = f"{seconds[len(seconds) // 2]}, {seconds[-1]}" if seconds else ""
        given_up = sum(line.get("given_up", False) for line in found) or ""
        held = sum(line["held"] for line in found)
        rows.append(f"| {name} | {held} of {len(found)} | {times} | {given_up} |")
    return "\n".join(rows)


def main() -> None:
    """Make the missing tries, a round of all modes after the other; exit with 1 if one did not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tries", type=int, default=20, help="of every mode")
    parser.add_argument("--modes", default="", help="how the names of the modes begin; default: all")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table, and run nothing")
    options = parser.parse_args()
    tries = read_results(options.results)
    if options.table:
        print(table(tries))
        return
    held = True
    with tempfile.TemporaryDirectory(prefix="pod-") as folder:
        pod = Pod(Path(folder))
        for number in range(options.tries):
            for name in modes():
                if name.startswith(options.modes) and len(tries[name]) <= number:
                    held &= make_try(name, number, pod, options.results)
                    tries[name].append({})
    sys.exit(not held)


if __name__ == "__main__":
    main()
