"""Processes of a command compare their start before they compute together."""

import copy
import threading

import pytest

from fastmim_jax.train import handshake
from fastmim_jax.train.handshake import (
    describe_inputs,
    describe_run,
    describe_start,
    find_difference,
    unshared_workdir,
)
from fastmim_jax.train.peers import AgreedError
from helpers import small
from helpers.connected import connect, together

SAMPLES = [f"{number:02}" for number in range(64)]
DATA = {"records": 160, "names": "abc", "content": "", "classes": ["cat", "dog"], "samples": SAMPLES}


def run(host="a", config=None, evaluation=None, **data):
    facts = {**DATA, "evaluation": evaluation and {**DATA, **evaluation}, **data}
    return {"host": host, **describe_run(config or small.config(), facts)}


def start(host="a", **flags):
    return {"host": host, **describe_start(flags)}


def test_equal_processes_may_read_from_other_places():
    elsewhere = small.config("/mnt/images")
    elsewhere.run.workers = 7
    assert find_difference([run(), run("b", elsewhere)]) == ""
    flags = {"workdir": "/a", "process": 0, "config": object(), "config.seed": 3, "step": 5}
    others = {"workdir": "/b", "process": 1, "config": object(), "config.seed": 3, "step": 5}
    assert find_difference([start(**flags), start("b", **others)]) == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"records": 159}, "process 1 on b reads 159 records, process 0 on a reads 160"),
        ({"names": "abd"}, "process 1 on b reads other records than process 0 on a"),
        ({"content": "x"}, "process 1 on b reads other records than process 0 on a"),
        ({"classes": ["cat", "fox"]}, "process 1 on b has other classes than process 0 on a"),
        (
            {"samples": ["x", None, *SAMPLES[2:]]},
            "process 1 on b reads other content than process 0 on a under the same names, in 1 of 63 ",
        ),
        (
            {"evaluation": {"records": 7}},
            "process 1 on b in the evaluation data reads 7 records, process 0 on a reads 160",
        ),
    ],
)
def test_other_data_are_named_with_the_host(change, expected):
    assert find_difference([run(evaluation=DATA), run("b", **{"evaluation": DATA, **change})]).startswith(
        expected
    )


def test_inputs_of_an_evaluation_are_named_with_the_host():
    facts = [
        {"host": host, **describe_inputs(step, DATA, test)}
        for host, step, test in (("a", "step 3", DATA), ("b", "step 3", DATA), ("c", "step 5", DATA))
    ]
    assert find_difference(facts[:2]) == ""
    assert "process 2 on c loads step 5, process 0 on a loads step 3" in find_difference(facts)
    other = {"host": "b", **describe_inputs("step 3", DATA, {**DATA, "records": 1})}
    assert "process 1 on b in the test data reads 1 records" in find_difference([facts[0], other])


def test_another_config_flag_version_or_device_is_named():
    other = small.config()
    other.optimizer.base_lr = 0.5
    assert "process 2 on c has config.optimizer.base_lr=0.5, process 0 on a has " in find_difference(
        [run(), run("b"), run("c", other)]
    )
    assert find_difference([start(step=5), start("b", step=None)]) == (
        "process 1 on b has --step=None, process 0 on a has 5: give every process the same"
    )
    for name, value in {"version": "0.0.1", "jax": "0.1", "device": "TPU v9", "devices": 64}.items():
        changed = {**copy.deepcopy(start("b")), name: value}
        sentence = find_difference([start(), changed])
        assert sentence.startswith("process 1 on b") and str(value) in sentence and ": " in sentence


def test_a_work_directory_of_one_host_alone_is_named():
    assert unshared_workdir("/run", ["a", "b"], [True, True]) == ""
    assert "process 1 on b does not see /run of process 0 on a" in unshared_workdir(
        "/run", ["a", "b"], [True, False]
    )


@pytest.mark.parametrize("difference", ["workdir", "records", ""])
def test_all_processes_raise_the_same_sentence(tmp_path, monkeypatch, difference):
    peers, _ = connect(2)
    mine = threading.local()
    monkeypatch.setattr(handshake, "current_peers", lambda: mine.peer)

    def shake(peer):
        mine.peer = peer
        other = difference if peer.process else ""
        data = {**DATA, "records": 1} if other == "records" else DATA
        try:
            handshake.shake_hands(tmp_path / (other or "run"), small.config(), data)
        except AgreedError as error:
            return str(error)
        return ""

    one, two = together(shake, peers)
    assert one == two and bool(one) == bool(difference)
    assert {"workdir": "does not see", "records": "reads 1 records", "": ""}[difference] in one
    assert not list(tmp_path.glob("*/.seen*"))
    for peer in peers:
        peer.close()


def test_a_process_alone_has_nothing_to_compare(tmp_path):
    handshake.shake_hands(tmp_path / "none", small.config(), DATA)
    assert not (tmp_path / "none").exists()
