"""How several processes are started, and what is said where they are not."""

import signal
from types import SimpleNamespace

import jax
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.start_jax import start_jax
from fastmim_jax.train import distributed
from fastmim_jax.train.distributed import start_processes, undeclared_cluster
from fastmim_jax.train.stop_signal import SIGNALS, Stopped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host:1234",), "--coordinator=host:1234 needs --processes=N and --process=I too"),
        (("host", 2, 0), "--coordinator=host has no port: type --coordinator=HOST:PORT"),
        (("host:1234", 2, 2), "--process=2 is not one of 0 to 1"),
    ],
)
def test_incomplete_numbers_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        start_processes(*arguments)


def test_nothing_detected_says_what_to_type(monkeypatch):
    def initialize(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(
        UserError, match="no cluster was detected .* type --coordinator=HOST:PORT --processes=N"
    ):
        start_processes()


def test_processes_that_do_not_meet_are_one_sentence(monkeypatch):
    def initialize(*_, **__):
        raise RuntimeError("DEADLINE_EXCEEDED: barrier\nstack")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(
        UserError, match=r"did not find each other within 300 s \(DEADLINE_EXCEEDED: barrier\)"
    ):
        start_processes("host:1234", 2, 0)


def test_a_signal_before_the_run_listens_ends_all(monkeypatch):
    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: None)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed, "_connect", lambda timeout: None)
    try:
        start_processes("host:1234", 2, 0)
        with pytest.raises(Stopped) as stopped:
            signal.raise_signal(signal.SIGTERM)
        assert stopped.value.code == 143 and not stopped.value.agreed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_numbers_come_from_the_environment(monkeypatch):
    given = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *numbers, **_: given.append(numbers))
    for name, value in {"COORDINATOR_ADDRESS": "host:1", "NUM_PROCESSES": "4", "PROCESS_ID": "3"}.items():
        monkeypatch.setenv(f"JAX_{name}", value)
    start_processes()
    assert given == [("host:1", 4, 3)]
    monkeypatch.setenv("JAX_PROCESS_ID", "x")
    with pytest.raises(UserError, match="JAX_PROCESS_ID is 'x', expected a number"):
        start_processes()


def test_a_launcher_without_the_flag_is_noticed():
    assert undeclared_cluster({}) == undeclared_cluster({"SLURM_STEP_NUM_TASKS": "1"}) == ""
    sentence = undeclared_cluster({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"})
    assert (
        sentence.startswith("Slurm started 8 processes, this is number 3") and "--distributed" in sentence
    )


def test_commands_print_that_a_launcher_was_noticed(monkeypatch, capsys):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    start_jax(SimpleNamespace(distributed=False, coordinator=None))
    assert capsys.readouterr().err.startswith("Open MPI started 4 processes")
    start_jax()  # a command that runs alone
    assert capsys.readouterr().err == ""
