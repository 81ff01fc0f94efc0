"""The end of a process that belongs to a run of several: the others end too, and nobody waits."""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from fastmim_jax.errors import UserError
from fastmim_jax.train.peers import AgreedError, Peers, current_peers
from fastmim_jax.train.stop_signal import Stopped

SECONDS_FOR_OTHERS = 5.0
SECONDS_FOR_THE_CAUSE = 3.0  # in which the loss of a process explains an error of a collective


@contextlib.contextmanager
def ends_together(leave: Callable[[int], Any] = os._exit) -> Iterator[None]:
    """End this process and the others where the block raises; a process that runs alone is not changed.

    It leaves without the ends of other blocks, which may wait for processes that are gone.
    """
    try:
        yield
    except BaseException as error:
        peers = current_peers()
        if peers is None:
            raise
        end_together(peers, error, leave)
        raise


def end_together(peers: Peers, error: BaseException, leave: Callable[[int], Any] = os._exit) -> None:
    """Print an error, tell the other processes unless they know, and leave."""
    if isinstance(error, Stopped):
        text, code = "" if error.agreed else f"it was stopped by {error.name}", int(error.code or 0)
    elif isinstance(error, UserError):
        text, code = str(error), 2
        print(f"fastmim: {text}", file=sys.stderr, flush=True)
    else:
        time.sleep(SECONDS_FOR_THE_CAUSE)  # if another process has died, its loss ends this one here
        traceback.print_exception(error)
        text, code = f"{type(error).__name__}: {error}".splitlines()[0], 1
    if text and not isinstance(error, AgreedError):
        peers.fail(text, code)
    else:
        peers.close()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    peers.wait(SECONDS_FOR_OTHERS)
    leave(code)


def leave_at_signal(code: int, leave: Callable[[int], Any] = os._exit) -> None:
    """End this process at once, at a signal, and tell the other processes of its run.

    Args:
      code: 128 plus the number of the signal.
    """
    peers = current_peers()
    if peers is not None:
        peers.fail(f"it was stopped by {signal.Signals(code - 128).name}", code)
        peers.wait(SECONDS_FOR_OTHERS)
    leave(code)
