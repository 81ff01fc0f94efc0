"""Translation between published parameter names and ours, by the key table of a format.

A rule maps a module (or a single array) of a PyTorch state dict to one of our parameter tree; "{}"
stands for the index of a block. Our paths are the keys of the nested parameter dict joined by "/".
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from itertools import compress, product
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fastmim_jax.errors import FormatMismatch
from fastmim_jax.export.formats import FORMATS
from fastmim_jax.export.formats.grids import NO_HINTS, GridHints, complete_cls, is_grid, restore_grids
from fastmim_jax.export.formats.rules import Format, State, Suffixes

MAX_NUMBERS = 10  # in a name of any format; every number more doubles the readings
NUMBER = re.compile(r"\d+")
STATISTICS = ("mean", "var")  # last parts of our paths in "batch_stats"; all others are parameters
Variables = Mapping[str, Any]
Direction = Literal["to_ours", "to_theirs"]


def to_ours(state_dict: State, format_name: str, hints: GridHints = NO_HINTS) -> dict[str, Any]:
    """Convert a published state dict {name: array} to our variables {"params": nested, ...}.

    Args:
      format_name: a key of `formats.FORMATS`.
      hints: of the grids, which are taken as square without them.

    Raises:
      FormatMismatch: unknown names, some but not all arrays of a group that is joined, or wrong shapes.
    """
    _refuse(unknown_names(state_dict, format_name), format_name)
    arrays = _rename(state_dict, FORMATS[format_name], "to_ours")
    names = {path: published_name(path, format_name) for path, x in arrays.items() if is_grid(path, x)}
    return unflatten_variables(restore_grids(arrays, FORMATS[format_name], hints, names))


def to_theirs(variables: Variables, format_name: str) -> dict[str, np.ndarray]:
    """Convert our variables {"params": nested, ...} to a published state dict, without its buffers.

    Raises:
      FormatMismatch: unknown paths, or some but not all arrays of a group that is joined.
    """
    arrays = flatten_variables(variables)
    _refuse(unknown_paths(arrays, format_name), format_name)
    arrays = {
        path: x for path, x in complete_cls(arrays).items() if path in arrays or _has(path, format_name)
    }
    return _rename(arrays, FORMATS[format_name], "to_theirs")


def flatten_variables(variables: Variables) -> dict[str, Any]:
    """Convert variables {"params": nested, ...} to {path: array}, all collections together."""
    arrays: dict[str, Any] = {}
    for tree in variables.values():
        arrays |= flatten_dict(jax.device_get(tree), sep="/")
    return arrays


def unflatten_variables(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Invert `flatten_variables`: {path: array} -> {"params": nested, ...}."""
    collections = {path: _collection(path) for path in arrays}
    return {
        name: unflatten_dict({path: x for path, x in arrays.items() if collections[path] == name}, sep="/")
        for name in sorted({"params", *collections.values()})
    }


def unknown_names(names: Iterable[str], format_name: str) -> list[str]:
    """Return the published names that a format does not have, ignorable buffers aside."""
    unmatched = _unmatched(names, FORMATS[format_name], "to_ours")
    return [name for name in unmatched if not is_ignorable(name, format_name)]


def unknown_paths(paths: Iterable[str], format_name: str) -> list[str]:
    """Return the paths of ours, as `flatten_variables` gives them, that a format cannot hold."""
    return _unmatched(paths, FORMATS[format_name], "to_theirs")


def _has(path: str, format_name: str) -> bool:
    return not unknown_paths([path], format_name)


def is_ignorable(name: str, format_name: str) -> bool:
    """Return True for ignorable buffers."""
    return not set(name.split(".")).isdisjoint(FORMATS[format_name].ignorable)


def count_missing_names(names: Iterable[str], format_name: str) -> int:
    """Return the number of table entries that match none of the published names."""
    return _count_unused(names, FORMATS[format_name], "to_ours")


def count_missing_paths(paths: Iterable[str], format_name: str) -> int:
    """Return the number of table entries that match none of our paths."""
    return _count_unused(paths, FORMATS[format_name], "to_theirs")


def published_name(path: str, format_name: str) -> str:
    """Return the name of one of our paths in a format, several joined by ", "; the path if it has none."""
    fmt = FORMATS[format_name]
    ((_, match),) = _matches([path], fmt, "to_theirs")
    if match is None:
        return path
    targets = _entries(fmt, "to_theirs")[0][match.entry].targets
    return ", ".join(target.format(*match.indices) for target in targets)


def _refuse(names: list[str], format_name: str) -> None:
    if names:
        shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
        count = "1 name is" if len(names) == 1 else f"{len(names)} names are"
        raise FormatMismatch(f"{count} not in the format '{format_name}': {shown}")


def _collection(path: str) -> str:
    return "batch_stats" if path.split("/")[-1] in STATISTICS else "params"


class _Entry(NamedTuple):
    """One transform of a key table in one direction; the names have "{}" for block indices."""

    sources: list[str]
    targets: list[str]
    transform: Callable
    ndim: int | None


class _Match(NamedTuple):
    """Match of a name: number of its entry, position among the entry's sources, block indices."""

    entry: int
    position: int
    indices: tuple[str, ...]


@cache
def _entries(fmt: Format, direction: Direction) -> tuple[list[_Entry], dict[str, tuple[int, int]]]:
    """-> ([_Entry], {name with "{}": (number of its entry, position among the sources)})."""
    entries = []
    for rule in fmt.table:
        for their_suffixes, our_suffixes, transform in rule.arrays:
            theirs, ours = _full_names(rule.theirs, their_suffixes), _full_names(rule.ours, our_suffixes)
            if direction == "to_ours":
                entries.append(_Entry(theirs, ours, transform.to_ours, transform.ndim))
            else:
                entries.append(_Entry(ours, theirs, transform.to_theirs, None))
    positions: dict[str, tuple[int, int]] = {}
    for number, entry in enumerate(entries):
        for position, source in enumerate(entry.sources):
            positions.setdefault(source, (number, position))
    return entries, positions


def _full_names(module: str, suffixes: Suffixes) -> list[str]:
    return [module + suffix for suffix in ((suffixes,) if isinstance(suffixes, str) else suffixes)]


@lru_cache(maxsize=10_000)
def _readings(name: str) -> list[tuple[str, tuple[str, ...]]]:
    """All ways to read numbers as block indices: [(name with "{}" for some numbers, those numbers)]."""
    pieces, numbers = NUMBER.split(name), NUMBER.findall(name)
    if len(numbers) > MAX_NUMBERS:
        return []
    readings = []
    for chosen in product((False, True), repeat=len(numbers)):
        parts = ("{}" if index else number for index, number in zip(chosen, numbers, strict=True))
        pattern = pieces[0] + "".join(part + piece for part, piece in zip(parts, pieces[1:], strict=True))
        readings.append((pattern, tuple(compress(numbers, chosen))))
    return readings


def _matches(
    names: Iterable[str], fmt: Format, direction: Direction
) -> Iterator[tuple[str, _Match | None]]:
    """Yield (name, its _Match or None); the first entry of the table wins."""
    _, positions = _entries(fmt, direction)
    for name in names:
        found = [
            _Match(*positions[pattern], indices)
            for pattern, indices in _readings(name)
            if pattern in positions
        ]
        yield name, min(found, default=None)


def _unmatched(names: Iterable[str], fmt: Format, direction: Direction) -> list[str]:
    return [name for name, match in _matches(names, fmt, direction) if match is None]


def _count_unused(names: Iterable[str], fmt: Format, direction: Direction) -> int:
    used = {match.entry for _, match in _matches(names, fmt, direction) if match}
    return len(_entries(fmt, direction)[0]) - len(used)


def _rename(arrays: Mapping[str, Any], fmt: Format, direction: Direction) -> dict[str, np.ndarray]:
    """{name: array} -> {other name: array}, for the names that the format has."""
    entries, _ = _entries(fmt, direction)
    # {(entry, block indices): {position among the sources: array}}
    groups: dict[tuple[int, tuple[str, ...]], dict[int, np.ndarray]] = {}
    for name, match in _matches(arrays, fmt, direction):
        if match:
            group = groups.setdefault((match.entry, match.indices), {})
            group[match.position] = np.asarray(arrays[name])
    renamed = {}
    for (number, indices), group in groups.items():
        entry = entries[number]
        names = [source.format(*indices) for source in entry.sources]
        if len(group) < len(names):
            missing = ", ".join(name for position, name in enumerate(names) if position not in group)
            given = ", ".join(names[position] for position in group)
            raise FormatMismatch(f"the format '{fmt.name}' has {given} only together with {missing}")
        values = _transformed(entry, names, [group[position] for position in range(len(names))])
        for target, value in zip(entry.targets, values, strict=True):
            renamed[target.format(*indices)] = value
    return renamed


def _transformed(entry: _Entry, names: list[str], arrays: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    for name, x in zip(names, arrays, strict=True):
        is_absent = x.ndim == 2 and not len(x)  # the entry of cls of a model without one
        if (not x.size and not is_absent) or (entry.ndim is not None and x.ndim != entry.ndim):
            axes = "1 axis" if entry.ndim == 1 else f"{entry.ndim} axes"
            expected = axes if x.size else "at least one value"
            raise FormatMismatch(f"'{name}' is an array of shape {x.shape}, expected {expected}")
    try:
        values = entry.transform(*arrays)
    except FormatMismatch as error:
        raise FormatMismatch(f"'{', '.join(names)}' does not fit: {error}") from error
    return values if len(entry.targets) > 1 else (values,)
