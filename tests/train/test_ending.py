"""The end of one of several processes."""

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.train import ending
from fastmim_jax.train.ending import ends_together, leave_at_signal
from fastmim_jax.train.peers import AgreedError
from fastmim_jax.train.stop_signal import Stopped


class Peers:
    """Records what the other processes are told."""

    def __init__(self):
        self.told = []

    def fail(self, text, code):
        self.told.append((text, code))

    def close(self):
        self.told.append("done")

    def wait(self, seconds):
        pass


@pytest.fixture
def peers(monkeypatch):
    peers = Peers()
    monkeypatch.setattr(ending, "current_peers", lambda: peers)
    monkeypatch.setattr(ending, "SECONDS_FOR_THE_CAUSE", 0)
    return peers


@pytest.mark.parametrize(
    ("error", "code", "told", "printed"),
    [
        (UserError("no image"), 2, ("no image", 2), "fastmim: no image\n"),
        (AgreedError("other data"), 2, "done", "fastmim: other data\n"),
        (Stopped("SIGTERM", agreed=True), 143, "done", ""),
        (Stopped("SIGINT"), 130, ("it was stopped by SIGINT", 130), ""),
        (
            ZeroDivisionError("by zero"),
            1,
            ("ZeroDivisionError: by zero", 1),
            "ZeroDivisionError: by zero\n",
        ),
    ],
)
def test_the_others_are_told_and_the_code_is_kept(peers, capsys, error, code, told, printed):
    codes = []
    with pytest.raises(type(error)), ends_together(codes.append):
        raise error
    assert codes == [code] and peers.told == [told]
    found = capsys.readouterr().err
    assert found.endswith(printed) and bool(found) == bool(printed)


def test_a_process_alone_raises_as_ever(monkeypatch):
    monkeypatch.setattr(ending, "current_peers", lambda: None)
    codes = []
    with pytest.raises(UserError), ends_together(codes.append):
        raise UserError("no image")
    assert codes == []


def test_a_process_that_leaves_at_a_signal_tells_the_others(peers, monkeypatch):
    codes = []
    leave_at_signal(143, codes.append)
    assert codes == [143] and peers.told == [("it was stopped by SIGTERM", 143)]
    monkeypatch.setattr(ending, "current_peers", lambda: None)
    leave_at_signal(130, codes.append)
    assert codes == [143, 130] and len(peers.told) == 1
