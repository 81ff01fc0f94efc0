"""One spelling of checkpoints for every command."""

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.run_folder import BEST, CHECKPOINTS, find_checkpoint, is_checkpoint


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run" / CHECKPOINTS / "30").mkdir(parents=True)
    (tmp_path / "run" / BEST / "20").mkdir(parents=True)
    (tmp_path / "run" / "config.json").touch()
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("typed", "folder", "step"),
    [
        ("", None, None),
        ("/", None, None),
        ("/config.json", None, None),
        ("/checkpoints", CHECKPOINTS, None),
        ("/checkpoints/30", CHECKPOINTS, 30),
        ("/checkpoints/30/", CHECKPOINTS, 30),
        ("/best", BEST, None),
        ("/best/20", BEST, 20),
    ],
)
def test_every_spelling(run, typed, folder, step):
    found = find_checkpoint(f"{run}{typed}")
    assert found == (run, run / folder if folder else None, step)
    assert is_checkpoint(f"{run}{typed}")


def test_spellings_of_nothing(run):
    for typed, message in (
        ("/checkpoints/40", "has no checkpoint of step 40: choose from: 30"),
        ("/pictures", "pictures does not exist"),
        ("s", "did you mean .*/run"),
    ):
        with pytest.raises(UserError, match=message):
            find_checkpoint(f"{run}{typed}")
        assert not is_checkpoint(f"{run}{typed}")
