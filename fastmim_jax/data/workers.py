"""How worker processes start and end: quietly, and never outliving the process they feed."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Future
from multiprocessing import resource_tracker

# A terminal and a batch scheduler send these to the whole process group; the main process decides.
_GROUP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def start_shielded(function):
    """Run function() in a thread whose children, threads and processes, do not see group signals.

    A signal mask is inherited at birth, so that Ctrl-C during a worker's slow imports, before any
    code of ours runs in it, makes no traceback. The main thread's own mask stays as it is.

    Returns:
      a Future of the result.
    """
    resource_tracker.ensure_running()  # it would lift the mask of the thread that starts it
    future = Future()

    def run():
        signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="data-start").start()
    return future


def init_worker(index, count):
    """Runs first in each worker (Grain passes its index and the number of workers)."""
    del index, count
    signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    parent = multiprocessing.parent_process().pid  # not getppid(): it may have died already
    threading.Thread(target=_follow_parent, args=(parent,), daemon=True).start()


def _follow_parent(parent):
    """End with the parent, however it ended, or when the parent itself says SIGTERM."""
    while os.getppid() == parent:
        if not hasattr(signal, "sigtimedwait"):  # macOS
            time.sleep(1)
            continue
        with contextlib.suppress(InterruptedError):
            received = signal.sigtimedwait({signal.SIGTERM}, 1)
            if received is not None and received.si_pid == parent:
                break
    os._exit(1)
