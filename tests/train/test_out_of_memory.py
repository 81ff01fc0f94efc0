"""Errors for lack of memory."""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.data.host import RESERVED_BY_THREADS
from fastmim_jax.errors import OutOfMemoryError, UserError
from fastmim_jax.train.out_of_memory import is_out_of_memory, refuse_out_of_memory
from helpers.processes import TESTS, write_config


def allocate(library):
    library.zeros(1 << 44, library.float32)


@pytest.mark.parametrize("library", [np, jnp])
def test_real_errors_become_a_sentence(library):
    with (
        pytest.raises(OutOfMemoryError, match=r"^out of memory \(.*\): type less$"),
        refuse_out_of_memory(lambda: "type less"),
    ):
        allocate(library)


def test_other_errors_pass():
    for error in (ValueError("shape"), RuntimeError("worker"), UserError("out of memory?")):
        assert not is_out_of_memory(error)
        with pytest.raises(type(error), match=str(error)[:5]), refuse_out_of_memory(lambda: ""):
            raise error
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(RuntimeError("can't start new thread"))


# PyTorch, which TensorBoard's writer imports, takes more addresses than the run: `preloaded` hides it.
LIMITED = """
import resource
from helpers import preloaded
from fastmim_jax.train import loop
free_bytes = loop.free_bytes

def limited(mesh):
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + {left}
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return free_bytes(mesh)

loop.free_bytes = limited
from fastmim_jax.__main__ import main
main()
"""


def run_limited(folder, *flags):
    """Train as under `ulimit -v`: of the batch of 2,048 images, which needs 0.3 GB."""
    changes = "    config.schedule.update(batch_size=2048, steps=1)\n    config.method.backbone.depth = 1"
    config = write_config(folder, "sample", changes)
    program = LIMITED.format(left=int(RESERVED_BY_THREADS + 2 * 0.25e9))
    words = [sys.executable, "-c", program, "pretrain", config, f"--workdir={folder / 'run'}", *flags]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    return subprocess.run(words, capture_output=True, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.exhaustive  # test_accumulation.py refuses in this process
def test_a_process_with_little_address_space_says_what_to_type(tmp_path):
    refused = run_limited(tmp_path, "--config.schedule.accumulation=1")
    last = refused.stderr.splitlines()[-1]
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert last.startswith("fastmim: config.schedule.accumulation is 1: a step of 2,048 images at a time")
    assert "GB of memory, and " in last and ": type --config.schedule.accumulation=" in last
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_process_with_little_address_space_splits_its_batch(tmp_path):
    fitted = run_limited(tmp_path)
    assert fitted.returncode == 0, fitted.stderr
    assert "(auto), as the whole batch needs about" in fitted.stdout
