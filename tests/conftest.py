"""One compilation cache for all tests and for the processes that they start."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

import pytest

from helpers import typecheck

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


gc.set_threshold(
    100_000, 50, 100
)  # what JAX traces is much, and looking through it takes a tenth of the time


typecheck.install()


def pytest_configure():
    import jax

    # Tests of sharding need several devices; a test that wants one builds its run on one.
    jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="module")
def one_device():
    """Let the runs of a file use one device instead of all eight, which take twice as long to compile."""
    import jax

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *backend: jax.local_devices()[:1])
        yield


@pytest.fixture
def all_devices(monkeypatch):
    """All eight devices for one test of a file that uses `one_device`."""
    import jax

    monkeypatch.setattr(jax, "devices", jax.local_devices)


LONG = {"train", "evaluate", "export", "test_config.py"}


def pytest_collection_modifyitems(items):
    """The longest files first, so that two processes end at about the same time."""
    items.sort(key=lambda item: LONG.isdisjoint(item.path.parts))
