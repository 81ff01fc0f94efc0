"""Processes of a run compare their start before the first step."""

import copy

import pytest

from fastmim_jax.train import handshake
from fastmim_jax.train.handshake import describe_process, find_difference, unshared_workdir
from fastmim_jax.train.peers import AgreedError
from helpers import small
from helpers.connected import connect, together

DATA = {"records": 160, "names": "abc", "content": "", "classes": ["cat", "dog"]}


def facts(host="a", config=None, **data):
    return {"host": host, **describe_process(config or small.config(), {**DATA, **data})}


def test_equal_processes_may_read_from_other_places():
    elsewhere = small.config("/mnt/images")
    elsewhere.run.workers = 7
    assert find_difference([facts(), facts("b", elsewhere)]) == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"records": 159}, "process 1 on b reads 159 records, process 0 on a reads 160"),
        ({"names": "abd"}, "process 1 on b reads other records than process 0 on a"),
        ({"content": "x"}, "process 1 on b reads other records than process 0 on a"),
        ({"classes": ["cat", "fox"]}, "process 1 on b has other classes than process 0 on a"),
    ],
)
def test_other_data_are_named_with_the_host(change, expected):
    assert find_difference([facts(), facts("b", **change)]).startswith(expected)


def test_another_config_version_or_device_is_named():
    other = small.config()
    other.optimizer.base_lr = 0.5
    assert "process 2 on c has config.optimizer.base_lr=0.5, process 0 on a has " in find_difference(
        [facts(), facts("b"), facts("c", other)]
    )
    for name, value in {"version": "0.0.1", "jax": "0.1", "device": "TPU v9", "devices": 64}.items():
        changed = {**copy.deepcopy(facts("b")), name: value}
        sentence = find_difference([facts(), changed])
        assert sentence.startswith("process 1 on b") and str(value) in sentence and ": " in sentence


def test_a_work_directory_of_one_host_alone_is_named():
    assert unshared_workdir("/run", ["a", "b"], [True, True]) == ""
    assert "process 1 on b does not see /run of process 0 on a" in unshared_workdir(
        "/run", ["a", "b"], [True, False]
    )


def test_all_processes_raise_the_same_sentence(tmp_path, monkeypatch):
    peers, _ = connect(2)

    def start(peer):
        monkeypatch.setattr(handshake, "current_peers", lambda: peers[0])
        sees = handshake._sees_workdir(peer, tmp_path / ("one" if peer.process else "zero"))
        return sees

    assert together(start, peers) == [[True, False]] * 2
    assert not list((tmp_path / "zero").iterdir())
    monkeypatch.setattr(handshake, "find_difference", lambda facts: "differs")
    peers[0].share = lambda name, value: [value]
    with pytest.raises(AgreedError, match="differs"):
        handshake.shake_hands(tmp_path, small.config(), DATA)
    for peer in peers:
        peer.close()


def test_a_process_alone_has_nothing_to_compare(tmp_path):
    handshake.shake_hands(tmp_path / "none", small.config(), DATA)
    assert not (tmp_path / "none").exists()
