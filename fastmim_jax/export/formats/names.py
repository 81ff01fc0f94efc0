"""Published parameter names against ours: one table per architecture and format, read both ways.

A rule maps a module (or a single array) of a PyTorch state dict to one of our parameter tree; "{}"
stands for the index of a block. Our paths are the keys of the nested parameter dict joined by "/".
"""

import re
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import compress, product
from typing import NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.huggingface import keys as huggingface
from fastmim_jax.export.formats.official import keys as official
from fastmim_jax.export.formats.openmmlab import dense_keys as mmdet
from fastmim_jax.export.formats.openmmlab import keys as openmmlab
from fastmim_jax.export.formats.timm import keys as timm
from fastmim_jax.export.formats.torchvision import keys as torchvision

FORMATS = {
    known.name: known
    for module in (official, openmmlab, timm, huggingface, torchvision, mmdet)
    for known in module.FORMATS
}
MOST_NUMBERS = 10  # in a name of any format; there are twice as many readings for every one more
NUMBER = re.compile(r"\d+")
STATISTICS = ("mean", "var")  # last parts of our paths in "batch_stats"; all others are parameters


def to_ours(state_dict, name):
    """A published state dict {name: array} -> our variables {"params": nested, ...}.

    name: of a format, a key of FORMATS.

    Raises:
      UserError: names that the format does not know, or a part of what belongs together.
    """
    _refuse(unknown(state_dict, name), name)
    return in_collections(_rename(state_dict, FORMATS[name], _inward))


def to_theirs(variables, name):
    """Our variables {"params": nested, ...} -> the published names, without what is no parameter there.

    Raises:
      UserError: parameters that the format does not know, or a part of what belongs together.
    """
    arrays = flat(variables)
    _refuse(placeless(arrays, name), name)
    return _rename(arrays, FORMATS[name], _outward)


def flat(variables):
    """Variables {"params": nested, ...} -> {path: array}, the collections together."""
    arrays = {}
    for tree in variables.values():
        arrays |= flatten_dict(jax.device_get(tree), sep="/")
    return arrays


def in_collections(arrays):
    """{path: array} -> variables {"params": nested, ...}, the inverse of `flat`."""
    collections = {path: _collection(path) for path in arrays}
    return {
        name: unflatten_dict({path: x for path, x in arrays.items() if collections[path] == name}, sep="/")
        for name in sorted({"params", *collections.values()})
    }


def unknown(names, format_name):
    """Those of published names that a format does not know."""
    known = FORMATS[format_name]
    return [name for name in _unmatched(names, known, _inward) if not unread(name, format_name)]


def unread(name, format_name):
    """Whether a format has a published name for what a model needs not be told."""
    return not set(name.split(".")).isdisjoint(FORMATS[format_name].unread)


def unused(names, format_name):
    """How many entries of a format's table have none of the published names."""
    return _idle(names, FORMATS[format_name], _inward)


def unfilled(paths, format_name):
    """How many entries of a format's table have none of our paths."""
    return _idle(paths, FORMATS[format_name], _outward)


def _idle(names, known, direction):
    used = {match[0] for _, match in _matches(names, known, direction) if match}
    return len(_entries(known, direction)[0]) - len(used)


def published(path, format_name):
    """The names that one of our paths has in a format; the path itself where it has none."""
    known = FORMATS[format_name]
    ((_, match),) = _matches([path], known, _outward)
    if match is None:
        return path
    number, _, indices = match
    entries, _ = _entries(known, _outward)
    return ", ".join(target.format(*indices) for target in entries[number].targets)


def placeless(paths, format_name):
    """Those of our paths, as `flat` gives them, that a format has no place for."""
    return _unmatched(paths, FORMATS[format_name], _outward)


def _inward(theirs, ours, values):
    return theirs, ours, values.to_ours


def _outward(theirs, ours, values):
    return ours, theirs, values.to_theirs


def _refuse(names, format_name):
    if names:
        shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
        raise UserError(f"{len(names)} names are not of the format '{format_name}': {shown}")


def _collection(path):
    return "batch_stats" if path.split("/")[-1] in STATISTICS else "params"


class _Entry(NamedTuple):
    """What one transform takes and gives: names with "{}" in them."""

    sources: list
    targets: list
    transform: Callable


@cache
def _entries(known, direction):
    """-> ([_Entry], {name with "{}": (number of its entry, its place among the sources)})."""
    entries = [
        _Entry(*direction(_names(rule.theirs, theirs), _names(rule.ours, ours), transform))
        for rule in known.table
        for theirs, ours, transform in rule.arrays
    ]
    places = {}
    for number, entry in enumerate(entries):
        for place, source in enumerate(entry.sources):
            places.setdefault(source, (number, place))
    return entries, places


@lru_cache(maxsize=10_000)
def _readings(name):
    """[(the name with "{}" for some of its numbers, those)]: all ways to read numbers as indices."""
    pieces, numbers = NUMBER.split(name), NUMBER.findall(name)
    if len(numbers) > MOST_NUMBERS:
        return []
    found = []
    for chosen in product((False, True), repeat=len(numbers)):
        parts = ("{}" if index else number for index, number in zip(chosen, numbers, strict=True))
        pattern = pieces[0] + "".join(part + piece for part, piece in zip(parts, pieces[1:], strict=True))
        found.append((pattern, tuple(compress(numbers, chosen))))
    return found


def _matches(names, known, direction):
    """Of every name: (name, (number of its entry, its place in that, indices of blocks) or None)."""
    _, places = _entries(known, direction)
    for name in names:
        found = [(*places[pattern], indices) for pattern, indices in _readings(name) if pattern in places]
        yield name, min(found, default=None)


def _unmatched(names, known, direction):
    return [name for name, match in _matches(names, known, direction) if match is None]


def _rename(arrays, known, direction):
    """{name: array} -> {other name: array}, of those that the format knows."""
    entries, _ = _entries(known, direction)
    found = {}  # {(entry, indices of blocks): {place among the sources: array}}
    for name, match in _matches(arrays, known, direction):
        if match:
            number, place, indices = match
            found.setdefault((number, indices), {})[place] = np.asarray(arrays[name])
    renamed = {}
    for (number, indices), parts in found.items():
        entry = entries[number]
        names = [source.format(*indices) for source in entry.sources]
        if len(parts) < len(names):
            missing = ", ".join(name for place, name in enumerate(names) if place not in parts)
            given = ", ".join(names[place] for place in parts)
            raise UserError(f"the format '{known.name}' has {given} only together with {missing}")
        values = entry.transform(*(parts[place] for place in range(len(names))))
        values = values if len(entry.targets) > 1 else (values,)
        for target, value in zip(entry.targets, values, strict=True):
            renamed[target.format(*indices)] = value
    return renamed


def _names(module, suffixes):
    """All names of one entry of a rule's arrays."""
    return [module + suffix for suffix in ((suffixes,) if isinstance(suffixes, str) else suffixes)]
