"""A run of several processes that is stopped and killed again and again, and an undisturbed one."""

import random
import shutil
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from forked import Forked, write_cache_everywhere
from modes import COMPILING, DUE, EVALUATED, EVALUATING, SAVING, STEPS, Mode, all_modes

from helpers.labelled_images import write_splits
from helpers.processes import lines, losses, write_config

PEER_TIMEOUT, HANG, START = 10, 90, 900  # seconds; the last on a machine that is busy
CHANGES = f"""
    config.model.backbone.update(width=16, depth=1)
    config.augment.update(magnitude=0.0, mixup=0.0, cutmix=0.0, random_erasing=0.0)
    config.schedule.update(steps={STEPS}, accumulation=1)
    config.run.update(eval_epochs={EVALUATED} * 16 / 97, picture_every=0)  # of 97 records
    config.run.peer_timeout_seconds = {PEER_TIMEOUT}
"""
COMPILES, COMPILED = "Compiling jit(step)", "Finished XLA compilation of jit(step)"  # in JAX's log


class Problem(Exception):
    """Something that should not have happened."""


class Pod:
    """The data, the config and the metrics of an undisturbed run of every number of processes."""

    def __init__(self, folder: Path):
        self.folder = folder
        jax.config.update("jax_compilation_cache_dir", str(folder / "cache"))
        write_cache_everywhere()
        self._config = write_config(folder, write_splits(folder / "images", 32, 130), CHANGES, "finetune")
        self._metrics: dict[int, dict] = {}

    def start(self, workdir: Path, count: int, *flags: str, **settings: object) -> list:
        """Start so many processes of one run; settings: of JAX."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        words = ["finetune", self._config, f"--workdir={workdir}", f"--coordinator=127.0.0.1:{port}"]
        words += [f"--processes={count}", *flags]
        return [Forked([*words, f"--process={number}"], **settings) for number in range(count)]

    def metrics(self, count: int) -> dict:
        """Return the metrics of an undisturbed run."""
        if count not in self._metrics:
            workdir = self.folder / f"undisturbed_{count}"
            finish(self.start(workdir, count), [(0,) * count], START)
            self._metrics[count] = losses(workdir)
        return self._metrics[count]


def finish(processes: list, allowed: list[tuple[int, ...]], seconds: float) -> list[str]:
    """Wait for the ends of processes -> what they printed; raise a Problem if one hangs or ends otherwise.

    allowed: exit codes.
    """
    end = time.monotonic() + seconds
    codes = tuple(process.wait(end) for process in processes)
    outputs = [process.output for process in processes]
    problems = [f"process {number} hung" for number, code in enumerate(codes) if code is None]
    if codes not in allowed:
        problems.append(f"exit codes {codes}, expected {allowed}")
    problems += [f"traceback of process {i}" for i, text in enumerate(outputs) if "Traceback" in text]
    for process in processes:
        process.kill()
    if problems:
        raise Problem("; ".join([*problems, *(f"{i}: {text[-400:]}" for i, text in enumerate(outputs))]))
    for process in processes:
        process.forget()
    return outputs


class Chain:
    """A run that is stopped in one mode after the other, and resumed each time.

    A try holds once the next one has resumed and computed a step that equals the undisturbed run's.

    Args:
      write: called with the line of a try that is known to have held or not.
    """

    def __init__(self, pod: Pod, count: int, write: Callable[[dict], None]):
        self._pod, self._count, self._write = pod, count, write
        self._expected = pod.metrics(count)
        self.workdir = Path(tempfile.mkdtemp(dir=pod.folder)) / "run"
        self._open: list[dict] = []  # lines of tries after which no step was computed so far
        self._began = 0.0  # the time at which the run was started last; after a kill, older lines are there

    def make_tries(self, modes: list[Mode], number: int) -> list[Mode]:
        """Make a try of each mode; return the modes that are left, as the run has ended or a try failed."""
        for index, mode in enumerate(modes):
            steps = mode.steps(self._saved(), index == len(modes) - 1)
            if not steps:
                return modes[index:] + self._end()
            line: dict[str, Any] = {"mode": mode.name, "try": number, "held": True}
            try:
                self._make_try(mode, steps, line)
            except Exception as problem:
                text = str(problem) if isinstance(problem, Problem) else traceback.format_exc()
                self._write(line | {"held": False, "problem": f"{self.workdir}: {text}"})
                return modes[index + 1 :] + self._drop()
        return self._end()

    def _make_try(self, mode: Mode, steps: list[int], line: dict) -> None:
        """Resume the run, send the signals and compare the metrics so far; complete the line of the try."""
        chance = random.Random(f"{mode.name} {line['try']}")
        start, count, step = self._saved(), self._count, chance.choice(steps)
        every = DUE if mode.moment in (SAVING, "") else 0
        settings = {}
        if mode.moment == COMPILING:
            settings = dict(jax_enable_compilation_cache=False, jax_log_compiles=True)
        flag = f"--config.run.checkpoint_every={every}"
        self._began = time.time()
        processes = self._pod.start(self.workdir, count, flag, **settings)
        receivers = chance.sample(range(count), count if mode.sender.startswith("all") else 1)
        first = processes[receivers[0]]
        self._wait_for(mode, processes, first, step, chance)
        line["in_moment"] = self._in_moment(mode, first, step)
        for number in receivers:
            processes[number].send(signal.SIGTERM if mode.moment else signal.SIGKILL)
            time.sleep(chance.uniform(0.03, 0.2) if "apart" in mode.sender else 0)
        began = time.monotonic()
        if mode.moment:
            codes = [(143,) * count, *([(0,) * count] if step == STEPS else [])]
            outputs = finish(processes, codes, HANG)
        else:
            codes = [tuple(-9 if process is first else 1 for process in processes)]
            outputs = finish(processes, codes, PEER_TIMEOUT + 5)
        line["seconds"] = round(time.monotonic() - began, 2)
        line["cpu"] = round(sum(process.seconds for process in processes), 1)
        if mode.moment:
            line["given_up"] = "the evaluation is given up" in outputs[0]
            self._check_saved(start, mode.moment == COMPILING)
        else:
            self._check_named(receivers[0], outputs)
        line["step"] = self._saved()
        self._compare(complete=False)
        if not mode.moment or self._saved() > start:
            self._close()
        self._open.append(line)

    def _wait_for(self, mode: Mode, processes: list, first: Any, step: int, chance: random.Random) -> None:
        """Wait for the moment of the signal."""
        if mode.moment == COMPILING:
            self._wait_until(lambda: COMPILES in first.output, processes)
            time.sleep(chance.uniform(0, 1))
            return
        self._wait_until(lambda: self._logged(self._began) >= step, processes)
        time.sleep(0 if step % EVALUATED else chance.uniform(0, 0.3))

    def _in_moment(self, mode: Mode, first: Any, step: int) -> bool:
        """Return whether a run is in the moment of a mode."""
        if mode.moment == COMPILING:
            return COMPILED not in first.output
        if mode.moment == EVALUATING:
            return not any("eval_loss" in line and line["step"] == step for line in self._lines())
        return self._logged() == step or not mode.moment

    def _wait_until(self, condition: Callable[[], bool], processes: list) -> None:
        end = time.monotonic() + START
        while not condition():
            if not all(process.running for process in processes) or time.monotonic() > end:
                outputs = [process.output[-400:] for process in processes]
                for process in processes:
                    process.kill()
                raise Problem(f"ended, or took longer than {START} s, before the signal: {outputs}")
            time.sleep(0.01)

    def _check_saved(self, start: int, compiling: bool) -> None:
        saved, logged = self._saved(), self._logged()
        if saved != logged and not (compiling and saved == start):
            raise Problem(f"step {saved} was saved, {logged} logged")

    def _check_named(self, victim: int, outputs: list[str]) -> None:
        """Raise a Problem if a process does not name the one that was killed."""
        for number, output in enumerate(outputs):
            if number != victim and f"process {victim} on" not in output:
                raise Problem(f"process {number} does not name process {victim}: {output[-400:]}")

    def _compare(self, complete: bool) -> None:
        """Compare the metrics so far, or those of a complete run, with those of the undisturbed one."""
        found = losses(self.workdir)
        keys = {*found, *(self._expected if complete else ())}
        wrong = sorted(key for key in keys if found.get(key) != self._expected.get(key))
        if wrong:
            shown = [(key, found.get(key), self._expected.get(key)) for key in wrong[:3]]
            before = ", ".join(line["mode"] for line in self._open)
            raise Problem(f"{len(wrong)} metrics differ: {shown}, after {before or 'the start'}")

    def _end(self) -> list[Mode]:
        """Resume the run to its end, and compare it -> the modes to be tried again."""
        try:
            if self._open:
                finish(self._pod.start(self.workdir, self._count), [(0,) * self._count], START)
                self._compare(complete=True)
        except Problem as problem:
            self._write(self._open.pop() | {"held": False, "problem": f"{self.workdir}, then: {problem}"})
            return self._drop()
        self._close()
        shutil.rmtree(self.workdir.parent)
        return []

    def _close(self) -> None:
        """Write the open tries as held."""
        for line in self._open:
            self._write(line)
        self._open.clear()

    def _drop(self) -> list[Mode]:
        """Forget the open tries, whose run did not go on -> their modes, to be tried again."""
        names = [line["mode"] for line in self._open]
        print("to be tried again, as the run failed before another step:", names, flush=True)
        self._open.clear()
        return [mode for mode in all_modes() if mode.name in names]

    def _lines(self) -> list[dict]:
        return lines(self.workdir)

    def _logged(self, since: float = 0.0) -> int:
        """Return the last step that was logged with a loss since a time, by the clock of the system."""
        found = (line["step"] for line in self._lines() if "loss" in line and line["time"] >= since)
        return max(found, default=0)

    def _saved(self) -> int:
        """Return the step of the newest complete checkpoint."""
        names = [path.name for path in (self.workdir / "checkpoints").glob("*")]
        return max((int(name) for name in names if name.isdecimal()), default=0)
