"""One run per work directory, also after a run that was killed."""

import json
import os
import signal
import subprocess
import sys

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.train.run_lock import FILE, run_lock

HOLD = "from fastmim_jax.train.run_lock import run_lock; import time\n"
HOLD += "with run_lock({!r}): print('held', flush=True); time.sleep(600)"


@pytest.mark.multiprocess
def test_the_second_run_says_who_holds_the_work_directory(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(str(tmp_path))], stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=f"is in use by process {first.pid} on .*, since 2"),
            run_lock(tmp_path),
        ):
            pass
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    with run_lock(tmp_path):
        assert json.loads((tmp_path / FILE).read_text())["process"] == os.getpid()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="cannot use the work directory"),
        run_lock(tmp_path / "file" / "run"),
    ):
        pass
