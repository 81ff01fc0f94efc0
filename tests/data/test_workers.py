"""Group signals are blocked in worker processes from their start on, and only there."""

import signal
import subprocess
import sys
import threading

import pytest

from fastmim_jax.data.workers import main_script_hidden, start_shielded

pytestmark = pytest.mark.multiprocess

# A child sends itself the signals that end processes by default; shells let what runs in the background
# ignore SIGINT.
CHILD = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGINT, signal.SIGTERM):
    os.kill(os.getpid(), number)
print(*sorted(signal.sigpending()), flush=True)
"""


def run_child():
    return subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True)


def test_a_child_does_not_see_group_signals():
    child = start_shielded(run_child).result(timeout=60)
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.split() == [str(int(signal.SIGINT)), str(int(signal.SIGTERM))]
    unshielded = run_child()
    assert unshielded.returncode and "KeyboardInterrupt" in unshielded.stderr


def test_the_mask_of_the_caller_does_not_change():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    shielded = start_shielded(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ())).result(timeout=60)
    assert shielded == before | {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before != shielded


def test_the_caller_does_not_wait():
    release = threading.Event()
    future = start_shielded(lambda: release.wait(timeout=60))
    assert not future.done()
    release.set()
    assert future.result(timeout=60) is True


@pytest.mark.parametrize("error", [ValueError("lost"), SystemExit(3)])
def test_exceptions_arrive(error):
    def fail():
        raise error

    assert start_shielded(fail).exception(timeout=60) is error


SCRIPT = """
from fastmim_jax.data.chunk_readers import WorkerReader
print("run", flush=True)
reader = WorkerReader(abs, 3, 1, 1, 0)
print([reader.next() for _ in range(3)], flush=True)
reader.close()
"""


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    run = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True)
    assert run.stdout == "run\n[0, 1, 2]\n", run.stderr


def test_the_main_script_is_hidden_unless_it_defines_what_a_worker_gets():
    main = sys.modules["__main__"]
    before = dict(vars(main))
    own = type("Own", (), {"__module__": "__main__"})
    with main_script_hidden((abs, 1)):
        assert "__file__" not in vars(main) and main.__spec__ is None
    for arguments in ((abs, own()), ([own],)):
        with main_script_hidden(arguments):
            assert vars(main) == before
    assert vars(main) == before
