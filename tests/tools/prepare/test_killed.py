"""Interrupted preparations: the same bytes in the end, and no process is left behind."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.labelled_images import write_images

ROOT = Path(__file__).parents[3]
# The process signals itself some time after a number of finished shards; its workers go on meanwhile.
PROGRAM = """
import os, signal, sys, time
from fastmim_jax.tools.prepare import command, shards

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
number, shard, pause = int(sys.argv.pop(1)), int(sys.argv.pop(1)), float(sys.argv.pop(1))
shards.MIN_RECORDS = 2
run_tasks = command.run_tasks

def interrupted(*args):
    for count, result in enumerate(run_tasks(*args)):
        yield result
        if number and count == shard:
            time.sleep(pause)
            os.kill(os.getpid(), number)

command.run_tasks = interrupted
from fastmim_jax.__main__ import main
main()
"""


def start(source, destination, number=0, shard=0, pause=0.0):
    words = [sys.executable, "-c", PROGRAM, str(int(number)), str(shard), str(pause)]
    words += ["prepare", str(source), str(destination), "--workers=2"]
    return subprocess.Popen(
        words, cwd=ROOT, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def shards_in(folder):
    return len(list(folder.glob("train/*.array_record")))


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def group_is_empty(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.multiprocess
def test_five_kills_leave_the_same_bytes_and_no_process(tmp_path):
    source = write_images(tmp_path / "images", 64)
    (source / "red" / "broken.png").write_bytes(b"not an image")
    undisturbed = start(source, tmp_path / "a")
    assert undisturbed.wait() == 0, undisturbed.stdout.read()
    destination, chance = tmp_path / "b", random.Random(0)
    total = shards_in(tmp_path / "a")
    assert total == 96  # the last of 97 would hold the broken file only
    codes = []
    for sent in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = start(source, destination, sent, chance.randrange(2, 12), chance.random() * 0.01)
        output, _ = process.communicate()
        codes.append(process.returncode)
        assert "Traceback" not in output, output
        wait_for(lambda group=process.pid: group_is_empty(group))
    assert codes == [-9, 130, -9, 143, -9]
    last = start(source, destination)
    output, _ = last.communicate()
    assert last.returncode == 0 and "resuming with" in output, output
    assert tree(destination) == tree(tmp_path / "a")
