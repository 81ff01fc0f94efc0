"""One run per work directory; the end of a process that is killed is tested in test_resume.py."""

import json
import os

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.train.run_lock import FILE, run_lock


def test_the_second_run_says_who_holds_the_work_directory(tmp_path):
    with (
        run_lock(tmp_path),
        pytest.raises(UserError, match=f"is in use by process {os.getpid()} on .*, since 2"),
        run_lock(tmp_path),
    ):
        pass
    (tmp_path / FILE).write_text("damaged, and of a process that was killed")
    with run_lock(tmp_path):
        assert json.loads((tmp_path / FILE).read_text())["process"] == os.getpid()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="cannot use the work directory"),
        run_lock(tmp_path / "file" / "run"),
    ):
        pass
