"""One compilation cache for all tests and for the processes that they start."""

import gc
import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

CACHE = Path(__file__).parents[1] / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tiny models compile four times as fast without LLVM's optimisations and with XLA's older, plainer code for
# loops; set XLA_FLAGS= for the real ones. XLA stops at a flag that it does not know.
FLAGS = ["--xla_backend_optimization_level=0"]
if version("jaxlib").startswith("0.10."):
    FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))


# JAX allocates much while it traces; with Python's own thresholds a tenth of the time is collection.
gc.set_threshold(100_000, 50, 100)


def pytest_configure(config):
    """Prepare a process that runs tests: not the one that starts others with pytest-xdist."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return
    import jax

    from helpers import typecheck

    typecheck.install()
    import_tensorboard()

    # Tests of sharding need several devices; a test that wants one builds its run on one.
    jax.config.update("jax_num_cpu_devices", 8)


def import_tensorboard():
    """Import TensorBoard's writer without PyTorch, which it would import where it is installed, for 2 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        import tensorboardX  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def programs_own_creation():
    """Let stages create their states as `helpers.initial` does; yields the program's own function."""
    from fastmim_jax.train import state
    from helpers import initial

    own = state.create_state
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "create_state", initial.create_state)
        patch.setattr(state, "abstract_state", initial.abstract_state)
        yield own


@pytest.fixture(scope="session", autouse=True)
def quiet_compilation():
    """Leave out the messages on slow compilations, which a busy machine adds to what tests read."""
    from fastmim_jax.train import compilation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "QUIET_SECONDS", 3600.0)
        yield


@pytest.fixture(autouse=True)
def package_log():
    """The package's logger as a library has it; a command sets it up for the whole process."""
    log = logging.getLogger("fastmim_jax")
    log.handlers, log.propagate = [], True
    yield
    log.handlers, log.propagate = [], True


@pytest.fixture(scope="module")
def one_device():
    """Let the runs of a file use one device instead of all eight, which take twice as long to compile."""
    import jax

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *backend: jax.local_devices()[:1])
        yield


@pytest.fixture(scope="module")
def shared_stages():
    """Let the runs of a file that have equal configs share their compiled programs."""
    from helpers import stages

    with stages.shared() as known:
        yield known


@pytest.fixture
def all_devices(monkeypatch):
    """All eight devices for one test of a file that uses `one_device`."""
    import jax

    monkeypatch.setattr(jax, "devices", jax.local_devices)


def pytest_collection_finish():
    gc.freeze()  # modules stay: collections of garbage need not look at them


LEFT_OUT = pytest.StashKey[int]()  # the number of tests that -m or -k deselected


def pytest_deselected(items):
    if items:
        stash = items[0].config.stash
        stash[LEFT_OUT] = stash.get(LEFT_OUT, 0) + len(items)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # a process of pytest-xdist
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Read the count of a process of pytest-xdist; each of them collects all tests."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(terminalreporter, config):
    if left_out := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"{left_out:,} tests were left out: type make test-all to run all")


# Folders and files of tests by what their files take, the most first.
LONG = ("train", "mim", "export", "evaluate", "test_config.py", "test_main.py", "models")


def pytest_collection_modifyitems(items):
    """Sort long files first, so that two processes end at about the same time."""

    def order(item):
        return next((place for place, name in enumerate(LONG) if name in item.path.parts), len(LONG))

    items.sort(key=order)
