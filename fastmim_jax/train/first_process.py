"""Work that the first process of a run does for all."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fastmim_jax.errors import UserError
from fastmim_jax.train.peers import AgreedError, Peers, current_peers


def of_first_process(function: Callable[[], Any]) -> Any:
    """Return the JSON value that a function returns on the first process, on all of them.

    Raises:
      UserError: the function raised it; all processes raise it.
    """
    if jax.process_count() == 1:
        return function()
    try:
        result = {"value": function() if jax.process_index() == 0 else None}
    except UserError as error:
        result = {"error": str(error)}
    peers = current_peers()
    result = _broadcast(result) if peers is None else _share(peers, result)
    if "error" in result:
        raise AgreedError(result["error"])
    return result["value"]


def _share(peers: Peers, result: dict) -> dict:
    first: dict = peers.share("first", result)[0]
    return first


def _broadcast(result: dict) -> dict:
    """Broadcast over the devices, for processes that JAX connects and this package does not."""
    text = np.frombuffer(json.dumps(result).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(length, np.uint8)
    padded[: len(text)] = text[:length]
    found: dict = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())
    return found
