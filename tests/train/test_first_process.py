"""Work that the first process does for all."""

import jax
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.train import first_process
from fastmim_jax.train.first_process import of_first_process
from helpers.connected import connect, together


def refuse():
    raise UserError("no such data")


def test_a_process_alone_does_its_work():
    assert of_first_process(lambda: 7) == 7
    with pytest.raises(UserError, match="no such data"):
        of_first_process(refuse)


@pytest.fixture
def second(monkeypatch):
    """Arrays that the first of two processes has broadcast; with two or more, this is the second."""
    sent = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: len(sent) >= 2)  # the first sends two arrays

    def broadcast(array):
        sent.append(array)
        return sent[len(sent) - 1 if len(sent) < 3 else len(sent) - 3]

    monkeypatch.setattr(first_process.multihost_utils, "broadcast_one_to_all", broadcast)
    return sent


def test_others_take_what_the_first_has_found(second):
    for _ in range(2):
        assert of_first_process(lambda: {"range": [0, 4095]} if len(second) < 2 else {}) == {
            "range": [0, 4095]
        }
    second.clear()
    for _ in range(2):
        with pytest.raises(UserError, match="no such data"):
            of_first_process(refuse if len(second) < 2 else dict)


def test_peers_share_it():
    peers, _ = connect(2)
    found = together(lambda peer: first_process._share(peer, {"value": peer.process}), peers)
    assert found == [{"value": 0}] * 2
    for peer in peers:
        peer.close()
