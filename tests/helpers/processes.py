"""Runs of `fastmim` in processes of their own, to be killed, and what they logged."""

import atexit
import json
import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
# Forked from a process that has imported everything: importing takes longer than a run of the tests.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["helpers.preloaded"])
FILE = """
import sys
sys.path.insert(0, {tests!r})
from helpers import small

def get_config():
    config = small.{make}({data!r}, **{options!r})
{changes}
    return config
"""

MAKERS = {"pretrain": "config", "finetune": "tuning", "segment": "segmenting"}  # functions of small.py


def write_config(folder, data, changes="", command="pretrain", **options):
    """Writes a file of a command's config of small.py and changes to it -> the flag that names it."""
    path, given = folder / f"{command}_config.py", {name: str(x) for name, x in options.items()}
    known = dict(tests=str(TESTS), make=MAKERS[command], data=str(data), options=given)
    path.write_text(FILE.format(**known, changes=changes))
    return f"--config={path}"


def starter(folder, data, changes, command="pretrain", **options):
    """-> start(workdir, *flags): a process that trains by `write_config`."""
    config = write_config(folder, data, changes, command, **options)

    def start(workdir, *more):
        return Run([command, config, f"--workdir={workdir}", *more])

    return start


class Run:
    """`fastmim` in a process and session of its own.

    Args:
      words: of the command line.
      environment: variables beside those of this process.
    """

    def __init__(self, words, environment=None):
        handle, self._output = tempfile.mkstemp()
        os.close(handle)
        path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
        os.environ["PYTHONPATH"], before = path, os.environ.get("PYTHONPATH")
        try:
            args = words, self._output, {"PYTHONPATH": path, **(environment or {})}
            self._process = FORKS.Process(target=_fastmim, args=args)
            self._process.start()
        finally:
            os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)

    @property
    def pid(self):
        return self._process.pid

    @property
    def running(self):
        return self._process.is_alive()

    def send(self, number):
        """Send a signal; SIGKILL goes to the workers of the loader too."""
        (os.killpg if number == signal.SIGKILL else os.kill)(self.pid, number)

    def wait(self, seconds=300):
        """Wait for the end -> (exit code, what was printed)."""
        self._process.join(seconds)
        output, code = self.output, self._process.exitcode
        if code is None:
            self.send(signal.SIGKILL)
        os.unlink(self._output)
        assert code is not None, f"still running after {seconds} s: {output}"
        return code, output

    @property
    def output(self):
        return Path(self._output).read_text()


def _fastmim(words, output, environment):
    """The whole of a process: a command with its output in a file."""
    os.setsid()
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    from fastmim_jax.__main__ import main

    try:
        main(words)
    finally:
        atexit._run_exitfuncs()  # as at the end of Python; multiprocessing leaves them out


def finish(run, code=0):
    """Wait for a run that ends with this code -> what it printed."""
    found, output = run.wait()
    assert found == code, output
    return output


def lines(workdir):
    path = Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    complete = [line for line in path.read_text().split("\n")[:-1]]
    return [json.loads(line) for line in complete]


def losses(workdir):
    """{(step, name): value} of everything that a run must repeat to the bit."""
    names = ("loss", "grad_norm", "lr", "eval_loss", "top1", "top5", "best_top1", "miou", "epoch")
    found = [
        ((line["step"], name), line[name]) for line in lines(workdir) for name in names if name in line
    ]
    assert len(found) == len(dict(found)), "a step was logged twice"
    return dict(found)


def kill(command, workdir, number, step, *more):
    """Start a run and send it a signal after a step -> the run."""
    run = command(workdir, *more)
    while not any(line["step"] >= step for line in lines(workdir)):
        assert run.running, run.output
        time.sleep(0.02)
    run.send(number)
    return run
