"""Start a run on several processes: JAX's service, and the connections between the processes."""

import os
import signal
from collections.abc import Mapping
from types import FrameType
from typing import Any

import jax

from fastmim_jax.errors import UserError
from fastmim_jax.train.ending import leave_at_signal
from fastmim_jax.train.peers import Peers, connect_peers
from fastmim_jax.train.stop_signal import SIGNALS, Stopped, on_lost_stop

SECONDS_TO_START = 300
# Number of processes of a launcher, and of this process among them.
LAUNCHERS = {
    "Slurm": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "JAX_NUM_PROCESSES": ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
}
_KEY = "fastmim_jax/peers"


def start_processes(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    timeout: float = 60.0,
) -> None:
    """Join the other processes of a run.

    Args:
      coordinator: HOST:PORT of process 0; None, like the numbers, for JAX_COORDINATOR_ADDRESS,
        JAX_NUM_PROCESSES and JAX_PROCESS_ID, or else for what JAX detects (Slurm, Open MPI, TPU pods,
        Kubernetes).
      processes: number of all.
      process: number of this one.
      timeout: seconds of silence after which another process counts as dead.

    Raises:
      UserError: nothing is detected, or the others do not come.
    """
    processes = _number("JAX_NUM_PROCESSES") if processes is None else processes
    process = _number("JAX_PROCESS_ID") if process is None else process
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if coordinator:
        _check_numbers(coordinator, processes, process)
    # JAX's handler would swallow a SIGTERM before the run listens; `StopAgreement` does its work.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            # Our own connections notice a dead process first.
            heartbeat_timeout_seconds=int(3 * timeout) + 60,
            initialization_timeout=SECONDS_TO_START,
        )
    except ValueError as error:
        raise UserError(
            f"no cluster was detected ({error}): type --coordinator=HOST:PORT --processes=N --process=I, "
            "where HOST is that of process 0"
        ) from error
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"the processes did not find each other within {SECONDS_TO_START} s ({first}): start all of "
            "them, with the same --coordinator that each can reach"
        ) from error
    if jax.process_count() > 1:
        connect_peers(_connect(timeout))
        for number in SIGNALS:  # until the run listens; see `StopSignal`
            signal.signal(number, _stop)
        on_lost_stop(lambda stopped: leave_at_signal(int(stopped.code or 0)))


def _stop(number: int, _: FrameType | None) -> None:
    """End this process where a signal interrupts it; `end_together` tells the others."""
    raise Stopped(signal.Signals(number).name)


def _check_numbers(coordinator: str, processes: int | None, process: int | None) -> None:
    if processes is None or process is None:
        raise UserError(f"--coordinator={coordinator} needs --processes=N and --process=I too")
    if not coordinator.rpartition(":")[2].isdecimal():
        raise UserError(f"--coordinator={coordinator} has no port: type --coordinator=HOST:PORT")
    if not 0 <= process < processes:
        raise UserError(f"--process={process} is not one of 0 to {processes - 1} (--processes={processes})")


def undeclared_cluster(environment: Mapping[str, str] = os.environ) -> str:
    """Return a sentence if a launcher started several processes without --distributed."""
    for launcher, (count, number) in LAUNCHERS.items():
        if environment.get(count, "1") not in ("", "1"):
            return (
                f"{launcher} started {environment[count]} processes, this is number "
                f"{environment.get(number, '?')}, and each runs alone: type --distributed for one run"
            )
    return ""


def _connect(timeout: float) -> Peers:
    from jax._src.distributed import global_state  # no public way to the address and the store

    client: Any = global_state.client
    address = str(global_state.coordinator_address)
    host = address.rsplit(":", 1)[0].strip("[]")
    return Peers(
        jax.process_index(),
        jax.process_count(),
        timeout,
        publish=lambda port: client.key_value_set(_KEY, str(port)),
        find=lambda: (host, int(client.blocking_key_value_get(_KEY, 1000 * SECONDS_TO_START))),
    )


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is None:
        return None
    if not text.isdecimal():
        raise UserError(f"{variable} is '{text}', expected a number")
    return int(text)
