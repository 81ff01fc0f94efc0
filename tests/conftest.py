"""One compilation cache for all tests and for the processes that they start."""

import os
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tiny models compile twice as fast without LLVM's optimisations; set XLA_FLAGS= for the real ones.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def pytest_configure():
    import jax

    # Tests of sharding need several devices; a test that wants one builds its run on one.
    jax.config.update("jax_num_cpu_devices", 8)


LONG = {"train", "test_config.py"}


def pytest_collection_modifyitems(items):
    """The longest files first, so that two processes end at about the same time."""
    items.sort(key=lambda item: LONG.isdisjoint(item.path.parts))
