"""Processes that keep in touch: shared values, signals, and ends with or without a word."""

import socket

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.train.peers import Peers
from helpers.connected import connect, together


@pytest.fixture
def closing():
    """A list of peers to close at the end."""
    peers = []
    yield peers
    for peer in peers:
        peer.close()


def test_every_process_gets_the_values_of_all_in_order(closing):
    peers, _ = connect(3)
    closing += peers
    for name in ("first", "second"):
        found = together(lambda peer, name=name: peer.share(name, {"n": peer.process, "of": name}), peers)
        assert found == [[{"n": number, "of": name} for number in range(3)]] * 3


@pytest.mark.parametrize("sender", [0, 2])
def test_a_signal_reaches_all_others_once(closing, sender):
    peers, _ = connect(3)
    closing += peers
    heard = {peer.process: [] for peer in peers}
    for peer in peers:
        peer.on_stop = heard[peer.process].append
    peers[sender].tell_stop("SIGTERM")
    for name in ("after", "wards"):  # messages keep their order
        together(lambda peer, name=name: peer.share(name, 0), peers)
    expected = {number: ["SIGTERM"] * (number != sender) for number in range(3)}
    assert heard == expected
    assert [peer.stop_name for peer in peers] == ["SIGTERM"] * 3


@pytest.mark.parametrize("sender", [0, 1])
def test_an_error_ends_all_with_its_sentence_and_code(capsys, sender):
    peers, left = connect(3)
    peers[sender].fail("no image can be read", 2)
    others = [end.wait() for number, end in enumerate(left) if number != sender]
    assert others == [2, 2] and left[sender].code is None
    sentence = f"fastmim: process {sender} on {socket.gethostname()} ended: no image can be read\n"
    assert capsys.readouterr().err == 2 * sentence


def test_processes_that_fail_at_the_same_time_wait_for_nobody(monkeypatch):
    monkeypatch.setattr("fastmim_jax.train.peers.SECONDS_TO_READ", 100.0)
    peers, left = connect(3)
    together(lambda peer: peer.fail("it was stopped by SIGTERM", 143), peers)
    assert {end.code for end in left} <= {None, 143}


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_all(capsys, killed):
    """Its connections end without a word, as the system ends those of a killed process."""
    peers, left = connect(3)
    peers[killed]._closing = True
    for link in peers[killed]._links.values():
        link._connection.shutdown(socket.SHUT_RDWR)
    assert [end.wait() for number, end in enumerate(left) if number != killed] == [1, 1]
    assert f"process {killed} on {socket.gethostname()} ended without a word" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["killed", "failed"])
def test_process_0_leaves_last_as_the_others_abort_without_it(monkeypatch, how):
    """JAX's coordinator is in process 0: the others must have said why they end before it goes."""
    monkeypatch.setattr("fastmim_jax.train.peers.SECONDS_TO_READ", 100.0)
    monkeypatch.setattr("fastmim_jax.train.peers.SECONDS_TO_END", 100.0)
    peers, left = connect(4)
    if how == "failed":
        peers[1].fail("no image can be read", 2)
    else:
        peers[1]._closing = True
        left[1](-9)
    codes = [left[number].wait() for number in (0, 2, 3)]
    assert codes == [2 if how == "failed" else 1] * 3
    assert max(left[2].time, left[3].time) < left[0].time


def test_a_host_that_falls_silent_counts_as_dead(capsys):
    peers, left = connect(2, timeout=0.2)
    peers[1]._send = lambda *_: None  # its heartbeats are lost
    assert left[0].wait() == 1


def test_a_process_that_is_done_ends_nobody(closing):
    peers, left = connect(3)
    closing += peers[:2]
    peers[2].close()
    for link in peers[2]._links.values():
        link._connection.shutdown(socket.SHUT_RDWR)
    while peers[0]._links[2].open:
        pass
    assert [end.code for end in left] == [None] * 3
    peers[0].wait(0.01)  # process 1 is still there


def test_a_process_0_that_cannot_be_reached_is_one_sentence():
    with socket.socket() as probe:  # a port at which nothing listens
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
        with pytest.raises(UserError, match=f"process 0 cannot be reached at 127.0.0.1:{address[1]} "):
            Peers(1, 2, 5.0, lambda port: None, lambda: address)
