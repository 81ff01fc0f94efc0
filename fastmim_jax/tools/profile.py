"""Profiles of a compiled program: the time of each class of kernels."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fastmim_jax.errors import UserError
from fastmim_jax.tools import hlo

HLO_SUFFIX = ".hlo.txt"  # of the files beside a trace with the text of the programs that it shows


class Kernel(NamedTuple):
    """The executions of one kernel; name: of its HLO instruction, or of a library's kernel."""

    name: str
    kind: str
    calls: int
    seconds: float


def trace(directory: str | Path, compiled: Any, run: Callable[[], Any]) -> None:
    """Trace run() into a folder, with the HLO text of `compiled` for `kernel_classes`.

    Args:
      compiled: the program that run() calls, from `lower(...).compile()`.
      run: returns arrays that are waited for.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"program{HLO_SUFFIX}").write_text(compiled.as_text())
    with jax.profiler.trace(str(directory)):
        jax.block_until_ready(run())


def kernel_classes(trace_dir: str | Path) -> dict[str, float]:
    """Return the seconds of a trace by class of kernels, the mean over its devices, the largest first.

    On CPU devices, threads count one by one: the sum is CPU time.

    Args:
      trace_dir: of `jax.profiler.trace`. Files *.hlo.txt in it (`compiled.as_text()`) say what a fusion
        contains; without one only the names of kernels are known.

    Returns:
      {class of `hlo.CLASSES`: seconds}, without classes that do not occur.

    Raises:
      UserError: the folder holds no trace, or one without kernels.
    """
    seconds: dict[str, float] = defaultdict(float)
    for kernel in _kernels(Path(trace_dir)):
        seconds[kernel.kind] += kernel.seconds
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def top_kernels(trace_dir: str | Path, count: int) -> list[Kernel]:
    """Return the `count` kernels of a trace with the largest sums of seconds; see `kernel_classes`."""
    return sorted(_kernels(Path(trace_dir)), key=lambda kernel: -kernel.seconds)[:count]


def _kernels(trace_dir: Path) -> list[Kernel]:
    files = sorted(trace_dir.glob("**/*.xplane.pb"))
    if not files:
        raise UserError(f"{trace_dir} has no trace: expected a folder written by jax.profiler.trace")
    modules = [hlo.parse(path.read_text()) for path in sorted(trace_dir.glob(f"**/*{HLO_SUFFIX}"))]
    sanitized = [{_sanitize(name): name for name in module.instructions} for module in modules]
    data = jax.profiler.ProfileData.from_file(str(files[-1]))
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    counts: Counter[tuple[str, str]] = Counter()
    kinds: dict[tuple[str, str], tuple[str, str] | None] = {}
    planes = 0
    for plane in data.planes:
        found = False
        for line in plane.lines:
            for name, op, duration in _executions(plane.name, line):
                key = name, op
                if key not in kinds:
                    kinds[key] = _identify(name, op, modules, sanitized)
                if kinds[key] is None:
                    continue
                found = True
                seconds[key] += duration
                counts[key] += 1
        planes += found
    if not seconds:
        raise UserError(f"{files[-1]} shows no kernels: trace a program that runs on a device")
    kernels = []
    for key, total in seconds.items():
        name, kind = kinds[key] or ("", "")
        kernels.append(Kernel(name, kind, counts[key], total / planes))
    return kernels


def _executions(plane: str, line: Any) -> Iterator[tuple[str, str, float]]:
    """Yield (kernel, HLO instruction or "", seconds) of the kernels on one line of a trace."""
    if plane.startswith("/device:TPU"):
        if line.name != "XLA Ops":
            return
        for event in line.events:
            name = event.name.partition(" = ")[0].lstrip("%")
            yield name, name, event.duration_ns / 1e9
    elif plane.startswith("/device:GPU"):
        if "stream" not in line.name.lower():
            return
        for event in line.events:
            yield event.name, _stat(event, "hlo_op"), event.duration_ns / 1e9
    elif plane == "/host:CPU":
        for event in line.events:
            op = "" if event.name.startswith("end: ") else _stat(event, "hlo_op")
            if op:
                yield op, op, event.duration_ns / 1e9


def _stat(event: Any, name: str) -> str:
    return next((str(value) for key, value in event.stats if key == name), "")


def _identify(
    kernel: str, op: str, modules: list[hlo.Module], sanitized: list[dict[str, str]]
) -> tuple[str, str] | None:
    """Return (name, class) of a kernel, or None if its time is that of other kernels."""
    for module, names in zip(modules, sanitized, strict=True):
        # In a CUDA graph kernels lack their instruction, but are named after it.
        for name in (op, names.get(_sanitize(kernel), "")):
            if name in module.instructions:
                kind = hlo.classify(name, module)
                if kind:
                    return name, kind
                if op == kernel:  # a wrapper
                    return None
    return (op or kernel), hlo.library_class(kernel) or _guess(kernel)


def _sanitize(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", name)


def _guess(name: str) -> str:
    """Return the class of a kernel of which only the name is known."""
    if any(word in name.lower() for word in ("copy", "transpose")):
        return "copies and transposes"
    if "reduce" in name.lower():
        return "reductions"
    return "other elementwise" if "fusion" in name.lower() else "other"
