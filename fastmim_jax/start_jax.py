"""Start JAX for a command: quiet libraries, the other processes of a run, the compilation cache."""

import os
import sys
from typing import Any


def start_jax(values: Any = None, peer_timeout: float = 0.0) -> None:
    """Silence the libraries' information lines, join the other processes, open the compilation cache.

    Args:
      values: flag values of a command that several processes can run together.
      peer_timeout: seconds of silence after which another process counts as dead.
    """
    from absl import logging as absl_logging

    from fastmim_jax.data.decoder_messages import name_messages
    from fastmim_jax.train.compilation import enable_cache
    from fastmim_jax.train.orbax_noise import mute_failed_saves

    absl_logging.set_verbosity(absl_logging.ERROR)
    mute_failed_saves()
    name_messages()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if values is not None:
        _join_processes(values, peer_timeout)
    enable_cache()


def _join_processes(values: Any, peer_timeout: float) -> None:
    from fastmim_jax.train.distributed import start_processes, undeclared_cluster

    if values.distributed or values.coordinator:
        start_processes(values.coordinator, values.processes, values.process, peer_timeout)
    elif sentence := undeclared_cluster():
        print(sentence, file=sys.stderr)
