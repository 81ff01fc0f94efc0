"""Compiled functions on a mesh, messages while they are compiled, and the persistent compilation cache."""

import contextlib
import dataclasses
import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

QUIET_SECONDS = 2.0  # compilation that takes no longer is not logged
SECONDS_BETWEEN_LINES = 30.0
CACHE_HIT = "/jax/compilation_cache/cache_hits"  # event of JAX

Log = Callable[[str], None]


def _print(text: str) -> None:
    """Print on standard error, on the first process; output of commands is on standard output."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


_LOG: ContextVar[Log] = ContextVar("log", default=_print)
_SECONDS: list[float] = [0.0]  # of compilation so far, in this process


class CompilationCost(NamedTuple):
    """The seconds that a program took to trace and lower, and to compile or to read from the cache."""

    tracing_seconds: float
    compiling_seconds: float
    from_cache: bool


@dataclasses.dataclass(frozen=True, eq=False)
class OnMesh:
    """A jitted function that is traced and called where the models can see the mesh.

    Attributes:
      name: of the function in messages, such as "the training step".
    """

    jitted: Any
    mesh: jax.sharding.Mesh
    name: str
    # By shapes of the arguments.
    _programs: dict[tuple, Callable] = dataclasses.field(default_factory=dict)
    _traced: dict[tuple, tuple[jax.stages.Traced, float]] = dataclasses.field(default_factory=dict)
    _costs: dict[tuple, CompilationCost] = dataclasses.field(default_factory=dict)

    def __call__(self, *args: Any) -> Any:
        """Call the jitted function; a call that compiles it is announced, see `announced`."""
        shapes = _shapes(args)
        with jax.set_mesh(self.mesh):
            if shapes in self._programs:
                return self._programs[shapes](*args)
            with announced(self.name):
                outputs = self.jitted(*args)
        self._programs[shapes] = self.jitted
        return outputs

    def trace(self, *args: Any) -> jax.stages.Traced:
        """Trace the function once for arrays, or ShapeDtypeStructs with shardings; `compile` reuses it."""
        shapes = _shapes(args)
        if shapes not in self._traced:
            start = time.perf_counter()
            with jax.set_mesh(self.mesh):
                traced = self.jitted.trace(*args)
            self._traced[shapes] = traced, time.perf_counter() - start
        return self._traced[shapes][0]

    def compile(self, *args: Any) -> jax.stages.Compiled:
        """Return the program for arrays, or ShapeDtypeStructs with shardings; announced and compiled once.

        Later calls with such arrays run it.
        """
        shapes = _shapes(args)
        program = self._programs.get(shapes)
        if not isinstance(program, jax.stages.Compiled):
            with announced(self.name):
                program = self._compile(args)
            self._programs[shapes] = program
        return program

    def _compile(self, args: tuple) -> jax.stages.Compiled:
        """Trace, lower and compile; record how long it takes."""
        traced, start = self.trace(*args), time.perf_counter()
        with jax.set_mesh(self.mesh), cache_hits() as hits:
            lowered, tracing = traced.lower(), self._traced[_shapes(args)][1]
            lowering = time.perf_counter() - start
            program = lowered.compile()
        compiling = time.perf_counter() - start - lowering
        self._costs[_shapes(args)] = CompilationCost(tracing + lowering, compiling, bool(hits))
        return program

    def compilation_cost(self, *args: Any) -> CompilationCost:
        """Return what `compile` took for such arguments."""
        self.compile(*args)
        return self._costs[_shapes(args)]


def _shapes(args: tuple) -> tuple:
    # The first argument, a state or variables, always has the same shapes.
    return tuple((np.shape(leaf), str(leaf.dtype)) for leaf in jax.tree.leaves(args[1:]))


@contextlib.contextmanager
def log_compilation(log: Log) -> Iterator[None]:
    """Send the messages of `announced` to a function instead of standard error."""
    token = _LOG.set(log)
    try:
        yield
    finally:
        _LOG.reset(token)


@contextlib.contextmanager
def announced(name: str) -> Iterator[None]:
    """Log that a program is being compiled, now and then, and at the end how long it took.

    Nothing is logged if it takes no longer than QUIET_SECONDS.

    Args:
      name: of the program, such as "the training step".
    """
    log, done, start = _LOG.get(), threading.Event(), time.monotonic()
    lines: list[str] = []

    def watch() -> None:
        wait = QUIET_SECONDS
        while not done.wait(wait):
            seconds = time.monotonic() - start
            lines.append(
                f"still compiling {name}: {seconds:.0f} s so far" if lines else f"compiling {name}"
            )
            log(lines[-1])
            wait = SECONDS_BETWEEN_LINES

    thread = threading.Thread(target=watch, daemon=True)
    with cache_hits() as hits:
        thread.start()
        try:
            yield
        except BaseException:
            lines.clear()  # the error says more
            raise
        finally:
            done.set()
            thread.join()
            _SECONDS[0] += time.monotonic() - start
    if lines:
        source = " (found in the compilation cache)" if hits else ""
        log(f"compiled {name} in {time.monotonic() - start:.1f} s{source}")


def compilation_seconds() -> float:
    """Return the seconds that announced programs took to compile so far, in this process."""
    return _SECONDS[0]


@contextlib.contextmanager
def cache_hits() -> Iterator[list[str]]:
    """Give a list that grows by an entry for every program that is read from the compilation cache."""
    hits: list[str] = []

    def listener(event: str, **_: Any) -> None:
        if event == CACHE_HIT:
            hits.append(event)

    jax.monitoring.register_event_listener(listener)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listener)


def enable_cache(log: Log = _print) -> Path | None:
    """Store compiled programs on disk, so that the next start reads them; call it before the first one.

    JAX's own settings count: the variable JAX_COMPILATION_CACHE_DIR names another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false turns the cache off. Several processes may share the folder: JAX lets
    the first one write, each file at once. A folder that cannot be written to is logged and not used.

    Returns:
      The folder, or None if there is no cache.
    """
    if not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return None
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if chosen and "://" in chosen:  # cloud storage
        return Path(chosen)
    folder = Path(chosen).expanduser() if chosen else default_cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
        problem = "it cannot be written to"
    except OSError as error:
        writable, problem = False, error.strerror or str(error)
    if not writable:
        log(
            f"no compilation cache in {folder} ({problem}): every start compiles anew; set "
            "JAX_COMPILATION_CACHE_DIR=DIR to a folder that can be written to"
        )
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def default_cache() -> Path:
    """Return $XDG_CACHE_HOME/fastmim_jax/compiled/CPU, by default in ~/.cache.

    CPU is a hash of this machine's processor: programs for it may not run on others with the same folder.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return caches / "fastmim_jax" / "compiled" / hashlib.sha256(_processor().encode()).hexdigest()[:8]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return " ".join(os.uname()[3:]) if hasattr(os, "uname") else ""
    keys = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.partition("\t")[0].strip() in keys))
