"""A tiny run that is started, disturbed and started again, and what must hold afterwards."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from helpers.processes import Run, losses, write_config  # noqa: E402

STEPS, EVERY, IMAGES = 60, 5, 70
SHARED_MEMORY = Path("/dev/shm")
CHANGES = f"""
    config.schedule.steps = {STEPS}
    config.method.backbone.depth = 1
    config.run.update(checkpoint_every={EVERY}, eval_every=20, picture_every=30, workers=0)
    config.data.eval_path = config.data.path
"""


@dataclass
class Outcome:
    """The result of a fault.

    lost: steps that were logged and are computed again. codes: exit codes of the starts. said: the sentence
    that the user saw. problems: what should not have happened; empty if the fault was held.
    """

    lost: int | None = None
    codes: list[int] = field(default_factory=list)
    said: str = ""
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


class Case:
    """A folder for one fault: images, a config, the work directory of the run."""

    def __init__(self, shared: "Shared"):
        self.shared = shared
        self.folder = Path(tempfile.mkdtemp(prefix="fault-", dir=shared.folder))
        self.images, self.workdir = shared.images, self.folder / "run"
        self.outcome, self.tolerance = Outcome(), 0.0
        self._flags: list[str] = []

    def own_images(self) -> Path:
        """Copy the images, for a fault that changes them."""
        self.images = self.folder / "images"
        shutil.copytree(self.shared.images, self.images)
        self._flags = [f"--config.data.path={self.images}", f"--config.data.eval_path={self.images}"]
        return self.images

    def finished(self) -> None:
        """Put a copy of the finished run into the work directory, and of its checkpoints up to step 55."""
        shutil.copytree(self.shared.complete, self.workdir)
        shutil.rmtree(self.workdir / "checkpoints" / str(STEPS))

    def newest(self) -> Path:
        """Return the newest checkpoint."""
        return max((self.workdir / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))

    def start(self, *flags: str, workdir: Path | None = None) -> Run:
        """Start the run, or resume it."""
        words = [
            "pretrain",
            self.shared.config,
            f"--workdir={workdir or self.workdir}",
            *self._flags,
            *flags,
        ]
        return Run(words)

    def until(self, run: Run, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until a condition holds; a run that ends before is a problem."""
        end = time.monotonic() + seconds
        while not condition():
            if not run.running or time.monotonic() > end:
                self.problem(f"ended before the fault: {run.output[-200:]}")
                return
            time.sleep(0.01)

    def step(self) -> int:
        """Return the last step that was logged."""
        return max((step for step, _ in losses(self.workdir)), default=0)

    def saved(self) -> int:
        """Return the newest complete checkpoint."""
        names = [path.name for path in (self.workdir / "checkpoints").glob("*") if path.name.isdecimal()]
        return max(map(int, names), default=0)

    def end(self, run: Run, codes: tuple[int, ...], seconds: float = 120, said: str = "") -> str:
        """Wait for the end of a run, and note a wrong exit code, a traceback or a missing sentence."""
        began = time.monotonic()
        try:
            code, output = run.wait(seconds)
        except AssertionError:
            self.problem(f"hung for {seconds:.0f} s")
            return ""
        self.outcome.seconds = time.monotonic() - began
        self.outcome.codes.append(code)
        if code not in codes:
            self.problem(f"exit code {code}, expected {' or '.join(map(str, codes))}: {output[-300:]}")
        if "Traceback" in output:
            self.problem("traceback")
        lines = [line for line in output.splitlines() if said and said in line]
        if said and not lines:
            self.problem(f"nothing said of '{said}': {output[-300:]}")
        self.outcome.said = lines[0] if lines else self.outcome.said
        return output

    def resumes(self, said: str = "", lost_at_most: int | None = None) -> None:
        """Start again, to the end: every logged number must equal those of the undisturbed run."""
        logged, saved = self.step(), self.saved()
        self.end(self.start(), (0,), said=said)
        if self.outcome.lost is None:
            self.outcome.lost = max(0, logged - saved)
        if lost_at_most is not None and self.outcome.lost > lost_at_most:
            self.problem(f"{self.outcome.lost} steps lost, expected at most {lost_at_most}")
        self.equal()

    def equal(self) -> None:
        """Note a problem if the metrics differ from those of the undisturbed run."""
        try:
            found = losses(self.workdir)
        except AssertionError as error:
            self.problem(str(error))
            return
        wrong = [
            key
            for key, value in self.shared.metrics.items()
            if key not in found or abs(found[key] - value) > self.tolerance * abs(value)
        ]
        if wrong or len(found) > len(self.shared.metrics):
            self.problem(f"metrics differ at {wrong[:2]} ({len(wrong)} values)")

    def problem(self, text: str) -> None:
        """Note that something should not have happened."""
        self.outcome.problems.append(text)

    def fastmim(self, *words: str) -> tuple[int, str]:
        """Run another command to its end -> (exit code, output)."""
        return Run(list(words)).wait(180)


class Shared:
    """The images, the config and the undisturbed run that all cases compare with."""

    def __init__(self, folder: Path):
        self.folder, self.images, self.complete = folder, folder / "images", folder / "complete"
        self.images.mkdir(parents=True)
        random = np.random.default_rng(0)
        for index in range(IMAGES):
            pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.images / f"{index:03}.png")
        self.config = write_config(folder, self.images, CHANGES)
        run = Run(["pretrain", self.config, f"--workdir={self.complete}"])
        code, output = run.wait(300)
        if code:
            raise RuntimeError(output)
        self.metrics = losses(self.complete)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, of all generations."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    own = [int(word) for word in found.stdout.split()]
    return own + [pid for child in own for pid in children(child)]


def workers(pid: int) -> list[int]:
    """Return the data workers of a run, not its resource tracker or fork server."""
    return [
        child
        for child in children(pid)
        if b"spawn_main" in _command(child) or b"forkserver" in _command(child)
    ]


def kill(pid: int) -> None:
    """Kill a process that may have ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
