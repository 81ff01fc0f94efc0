"""The processes of an evaluation compare the checkpoint and the images that they read."""

import hashlib
from typing import Any

from fastmim_jax.train import checksums
from fastmim_jax.train.handshake import compare_processes, describe_inputs
from fastmim_jax.train.peers import current_peers
from fastmim_jax.train.runs import LoadedRun
from fastmim_jax.train.training_data import describe_data


def compare_inputs(loaded: LoadedRun, *sources: Any) -> None:
    """Compare what this process evaluates with the others; one that runs alone has nothing to compare.

    Args:
      loaded: the checkpoint.
      sources: of images, and of others to test on.

    Raises:
      AgreedError: another process differs; all processes raise it.
    """
    if current_peers() is None:
        return
    facts = describe_inputs(_describe_checkpoint(loaded), *map(describe_data, sources))
    compare_processes("inputs", facts)


def _describe_checkpoint(loaded: LoadedRun) -> str:
    file = loaded.path / checksums.FILE
    content = file.read_bytes() if file.exists() else loaded.config.to_json().encode()
    return (
        f"the checkpoint of step {loaded.step:,} with the hash {hashlib.sha256(content).hexdigest()[:12]}"
    )
