"""Messages while a program is compiled, and the folder of the compilation cache."""

import time

import jax
import jax.numpy as jnp
import pytest

from fastmim_jax.train import compilation
from fastmim_jax.train.compilation import OnMesh, announced, default_cache, enable_cache, log_compilation
from fastmim_jax.train.sharding import make_mesh


@pytest.fixture
def lines(monkeypatch):
    """The lines logged, with waiting times of hundredths of a second."""
    monkeypatch.setattr(compilation, "QUIET_SECONDS", 0.02)
    monkeypatch.setattr(compilation, "SECONDS_BETWEEN_LINES", 0.1)
    logged = []
    with log_compilation(logged.append):
        yield logged


def test_a_long_compilation_is_logged(lines):
    with announced("the training step"):
        while len(lines) < 2:
            time.sleep(0.01)
    assert lines[0] == "compiling the training step"
    assert lines[1] == "still compiling the training step: 0 s so far"
    assert lines[-1].startswith("compiled the training step in 0.")


def test_a_short_or_failed_one_is_not(lines):
    with announced("nothing"):
        pass
    assert lines == []
    with pytest.raises(ValueError), announced("an error"):
        time.sleep(0.1)
        raise ValueError
    assert lines == ["compiling an error"]


def test_a_program_is_announced_once_for_every_shape(monkeypatch):
    names = []

    @compilation.contextlib.contextmanager
    def announce(name):
        names.append(name)
        yield

    monkeypatch.setattr(compilation, "announced", announce)
    double = OnMesh(jax.jit(lambda x, y: y * 2), make_mesh(devices=jax.devices()[:1]), "doubling")
    for size in (2, 2, 3, 2):
        double(None, jnp.ones(size))
    assert names == ["doubling"] * 2


def test_a_program_compiled_ahead_is_the_one_that_runs():
    traced = []
    double = OnMesh(
        jax.jit(lambda x, y: traced.append(1) or y * 2), make_mesh(devices=jax.devices()[:1]), "x"
    )
    double.trace(None, jax.ShapeDtypeStruct((3,), jnp.float32))
    program = double.compile(None, jax.ShapeDtypeStruct((3,), jnp.float32))
    assert double.compilation_cost(None, jnp.ones(3)).compiling_seconds > 0
    assert double.compile(None, jnp.ones(3)) is program
    assert double(None, jnp.ones(3)).tolist() == [2, 2, 2] and len(traced) == 1


@pytest.fixture
def restored():
    """Keep the settings of the cache."""
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_cache_is_in_the_cache_folder_of_the_user(restored, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    folder = enable_cache()
    assert folder == default_cache() and folder.parent == tmp_path / "fastmim_jax" / "compiled"
    assert folder.is_dir() and jax.config.jax_compilation_cache_dir == str(folder)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache().parent == tmp_path / ".cache" / "fastmim_jax" / "compiled"


def test_the_folder_that_the_user_chose_counts(restored, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert enable_cache() == tmp_path / "mine"
    jax.config.update("jax_enable_compilation_cache", False)
    assert enable_cache() is None


def test_without_a_writable_folder_there_is_no_cache(restored, tmp_path):
    (tmp_path / "file").write_text("")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file"))
    lines = []
    assert enable_cache(lines.append) is None and not jax.config.jax_enable_compilation_cache
    assert len(lines) == 1 and "no compilation cache in" in lines[0]
