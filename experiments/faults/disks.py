"""Disks that are full, read-only or gone, data that vanish, and two runs in one work directory."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from case import EVERY, REPOSITORY, STEPS, Case


def full_disk(case: Case) -> None:
    """A tmpfs of 2 MB as work directory; after space is made, the same command."""
    with _tmpfs(case, "size=1500k") as mount:
        case.workdir = mount / "run"
        case.end(case.start("--config.run.keep=99"), (2,), seconds=90, said="No space left on device")
        subprocess.run(["mount", "-o", "remount,size=64m", str(mount)], check=True)
        case.resumes()


def file_size_limit(case: Case) -> None:
    """A limit of 20 kB a file, as by a quota: only checkpoints fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    run = case.start()  # the limit is set from outside, so that this process keeps its own
    case.until(run, lambda: case.saved() >= EVERY)
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (20_000, before[1]))
    case.end(run, (2,), seconds=60, said="could not be written (File too large)")
    case.resumes()


def read_only(case: Case) -> None:
    """A work directory on a file system that is mounted read-only."""
    with _tmpfs(case, "size=64m") as mount:
        case.workdir = mount / "run"
        subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
        case.end(case.start(), (2,), seconds=60, said="cannot use the work directory")


def vanished_workdir(case: Case) -> None:
    """The work directory is deleted at step 12."""
    run = case.start("--config.schedule.steps=100000")
    case.until(run, lambda: case.step() >= 12)
    while case.workdir.exists():  # the run may write while it is deleted
        shutil.rmtree(case.workdir, ignore_errors=True)
    case.end(run, (2,), seconds=90, said="No such file")
    if (case.workdir / "checkpoints").exists():
        case.problem("a new work directory was made")


def hung_disk(case: Case) -> None:
    """From step 12 on, no write below the work directory returns: the run ends within a minute."""
    run = _Hangable(case)
    case.until(run, lambda: case.step() >= 12, seconds=400)
    run.hang()
    case.end(run, (2,), seconds=60, said="does not answer")
    run.go_on()
    case.resumes(lost_at_most=2 * EVERY)


def hung_before_a_checkpoint(case: Case) -> None:
    """The same as soon as a checkpoint is being written."""
    run = _Hangable(case)
    saving = lambda: any((case.workdir / "checkpoints").glob("*orbax-checkpoint-tmp*"))  # noqa: E731
    case.until(run, saving, seconds=400)
    run.hang()
    case.end(run, (2,), seconds=60, said="does not answer")
    run.go_on()
    case.resumes(lost_at_most=2 * EVERY)


def some_images_vanish(case: Case) -> None:
    """3 of 70 images vanish while the run reads them."""
    images = case.own_images()
    run = case.start()
    case.until(run, lambda: case.step() >= 5)
    for name in ("003.png", "020.png", "041.png"):
        (images / name).unlink()
    case.end(run, (0,), said="replaced")


def all_images_vanish(case: Case) -> None:
    """All images vanish for a while: the run ends in a sentence; once they are back it resumes."""
    images = case.own_images()
    run = case.start("--config.schedule.steps=100000")
    case.until(run, lambda: case.step() >= 7)
    images.rename(images.with_name("away"))
    case.end(run, (2,), seconds=90, said="could not be decoded")
    images.with_name("away").rename(images)
    run = case.start("--config.schedule.steps=100000")
    last = case.step()
    case.until(run, lambda: case.step() > last + 3)
    run.send(15)
    case.end(run, (143,))


def data_grow(case: Case) -> None:
    """The folder grows from 70 to 80 images between two starts: refused with both numbers."""
    images = case.own_images()
    run = case.start()
    case.until(run, lambda: case.step() >= 7)
    run.send(15)
    case.end(run, (143,))
    for index in range(10):
        shutil.copy(images / "000.png", images / f"new{index}.png")
    case.end(case.start(), (2,), said="70")


def two_runs(case: Case) -> None:
    """A second start in the same work directory."""
    run = case.start()
    case.until(run, lambda: case.step() >= 1)
    case.end(case.start(), (2,), seconds=60, said="is in use by process")
    case.end(run, (0,))
    case.equal()


class _tmpfs:
    def __init__(self, case, options):
        self.mount, self.options = case.folder / "mount", options

    def __enter__(self):
        self.mount.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", self.options, "tmpfs", str(self.mount)], check=True)
        return self.mount

    def __exit__(self, *_):
        time.sleep(0.5)
        subprocess.run(["umount", "-l", str(self.mount)], check=False)


class _Hangable:
    """A run whose writes to its work directory can be held up; see `Run` and hang.c."""

    def __init__(self, case):
        library, self._flag = case.folder / "hang.so", case.folder / "hangs"
        source = Path(__file__).with_name("hang.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
        hang = dict(HANG_BELOW=str(case.workdir), HANG_WHILE=str(self._flag), LD_PRELOAD=str(library))
        paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
        self._output = tempfile.TemporaryFile("w+")
        words = ["pretrain", case.shared.config, f"--workdir={case.workdir}"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fastmim_jax", *words],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **hang, "PYTHONPATH": paths},
        )

    def hang(self):
        self._flag.touch()

    def go_on(self):
        self._flag.unlink()

    @property
    def running(self):
        return self._process.poll() is None

    @property
    def output(self):
        self._output.seek(0)
        return self._output.read()

    def wait(self, seconds):
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            raise AssertionError(self.output) from error
        return code, self.output


ROWS = {
    "disk full": full_disk,
    "disk hangs": hung_disk,
    "disk hangs in a save": hung_before_a_checkpoint,
    "file size limit": file_size_limit,
    "disk read-only": read_only,
    "work directory deleted": vanished_workdir,
    "3 of 70 images vanish": some_images_vanish,
    "all images vanish for a while": all_images_vanish,
    "data grow between starts": data_grow,
    "two runs in one work directory": two_runs,
}
assert STEPS > 20
