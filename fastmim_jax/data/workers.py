"""Start and end of worker processes: no tracebacks on Ctrl-C, and none outlives its parent."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing import resource_tracker
from typing import Any

from fastmim_jax.data.decoder_messages import name_messages

_MAIN = threading.Lock()  # held while the main script is hidden
# Terminals and batch schedulers send these to the process group; only the main process acts on them.
_GROUP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def start_shielded(function: Callable) -> Future:
    """Run function() in a thread that blocks group signals, for itself and for the processes it starts.

    The signal mask is inherited when a process starts, so that Ctrl-C during the slow imports of a
    worker, before `init_worker` runs, prints no traceback. The main thread's mask does not change.

    Returns:
      Future of the result.
    """
    start_resource_tracker()  # first: it would unblock the signals of this thread
    future: Future[Any] = Future()

    def run():
        signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="data-start").start()
    return future


def start_resource_tracker() -> None:
    """Start multiprocessing's process that tracks shared memory; a SIGHUP to the group does not end it.

    Libraries start it when they are imported, so that this comes before.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()  # it ignores SIGINT and SIGTERM by itself
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def main_script_hidden(arguments: Any) -> Iterator[None]:
    """Start processes in the block without the main script, which a spawned process would run again.

    A script that calls `fastmim_jax.pretrain` then needs no `if __name__ == "__main__"`. It stays visible
    if the arguments of the process hold objects of classes that it defines.
    """
    main = sys.modules["__main__"]
    if _uses_main(arguments):
        yield
        return
    with _MAIN:
        spec, file = getattr(main, "__spec__", None), main.__dict__.pop("__file__", None)
        main.__spec__ = None
        try:
            yield
        finally:
            main.__spec__ = spec
            if file is not None:
                main.__file__ = file


def _uses_main(value: Any, depth: int = 5) -> bool:
    """Return whether an object, or one that it refers to, is of a class or function of the main script."""
    if "__main__" in (type(value).__module__, getattr(value, "__module__", "")):
        return True
    inner = value if isinstance(value, tuple | list) else getattr(value, "__dict__", {}).values()
    return depth > 0 and any(_uses_main(one, depth - 1) for one in list(inner)[:100])


def init_worker() -> None:
    """Initialise a worker process: it ends with its parent alone, and names files with messages."""
    name_messages()
    signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    parent = multiprocessing.parent_process()  # getppid() is wrong once the parent has died
    if parent is not None:
        threading.Thread(target=_follow_parent, args=(parent.pid,), daemon=True).start()


def _follow_parent(parent):
    """Exit when the parent has ended, in whatever way, or when the parent itself sends SIGTERM."""
    while os.getppid() == parent:
        if not hasattr(signal, "sigtimedwait"):  # macOS
            time.sleep(1)
            continue
        with contextlib.suppress(InterruptedError):
            received = signal.sigtimedwait({signal.SIGTERM}, 1)
            if received is not None and received.si_pid == parent:
                break
    os._exit(1)
