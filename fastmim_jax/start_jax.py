"""Start JAX for a command: quiet libraries, the other processes of a run, the compilation cache."""

import os
import sys
from typing import Any

PEER_TIMEOUT = 60.0  # seconds, of commands whose config does not say


def start_jax(values: Any = None, peer_timeout: float = PEER_TIMEOUT) -> None:
    """Silence the libraries' information lines, join the other processes, open the compilation cache.

    Args:
      values: flag values of a command that several processes can run together.
      peer_timeout: seconds of silence after which another process counts as dead.

    Raises:
      UserError: the others do not come, or were started otherwise; see `handshake.describe_start`.
    """
    from absl import logging as absl_logging

    from fastmim_jax.data.decoder_messages import name_messages
    from fastmim_jax.train.compilation import enable_cache
    from fastmim_jax.train.orbax_noise import mute_failed_saves

    absl_logging.set_verbosity(absl_logging.ERROR)
    mute_failed_saves()
    name_messages()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    several = values is not None and _join_processes(values, peer_timeout)
    enable_cache()
    if several:
        from fastmim_jax.train.handshake import compare_processes, describe_start

        compare_processes("start", describe_start({name: values[name].value for name in values}))


def _join_processes(values: Any, peer_timeout: float) -> bool:
    """Join the other processes; return whether the flags name any."""
    from fastmim_jax.train.distributed import start_processes, undeclared_cluster

    if values.distributed or values.coordinator:
        start_processes(values.coordinator, values.processes, values.process, peer_timeout)
        return True
    if sentence := undeclared_cluster():
        print(sentence, file=sys.stderr)
    return False
