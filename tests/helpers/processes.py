"""Runs of `fastmim` in processes of their own, to be killed, and what they logged."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = """
import sys
sys.path.insert(0, {tests!r})
from helpers import small

def get_config():
    config = small.{make}({data!r}, **{options!r})
{changes}
    return config
"""


# `python -m fastmim_jax` where PyTorch is not installed: TensorBoard's writer would import it, for 3 s.
PROGRAM = """
import sys

class WithoutTorch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, WithoutTorch)
from fastmim_jax.__main__ import main
main()
"""
MAKERS = {"pretrain": "config", "finetune": "tuning"}  # functions of small.py


def write_config(folder, data, changes="", command="pretrain", **options):
    """Writes a file of a command's config of small.py and changes to it -> the flag that names it."""
    path, given = folder / "small_config.py", {name: str(x) for name, x in options.items()}
    known = dict(tests=str(ROOT / "tests"), make=MAKERS[command], data=str(data), options=given)
    path.write_text(FILE.format(**known, changes=changes))
    return f"--config={path}"


def starter(folder, data, changes, command="pretrain", **options):
    """-> start(workdir, *flags): a process that trains by `write_config`."""
    config = write_config(folder, data, changes, command, **options)

    def start(workdir, *more):
        words = [sys.executable, "-c", PROGRAM, command, config]
        return subprocess.Popen(
            [*words, f"--workdir={workdir}", *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    return start


def finish(process, code=0):
    output = process.communicate(timeout=300)[0]
    assert process.returncode == code, output
    return output


def lines(workdir):
    path = Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    complete = [line for line in path.read_text().split("\n")[:-1]]
    return [json.loads(line) for line in complete]


def losses(workdir):
    """{(step, name): value} of everything that a run must repeat to the bit."""
    names = ("loss", "grad_norm", "lr", "eval_loss", "top1", "top5", "best_top1", "epoch")
    found = [
        ((line["step"], name), line[name]) for line in lines(workdir) for name in names if name in line
    ]
    assert len(found) == len(dict(found)), "a step was logged twice"
    return dict(found)


def wait(process, until):
    """Waits for something that a running process does: until() -> bool."""
    while process.poll() is None:
        if until():
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[0])


def kill(command, workdir, number, step, *more):
    """Starts a run and sends it a signal after a step -> the process."""
    process = command(workdir, *more)
    wait(process, lambda: any(line["step"] >= step for line in lines(workdir)))
    os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)
    return process
