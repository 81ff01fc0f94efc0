"""Records that stand in for one that cannot be decoded, and classes of which no image is left."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fastmim_jax.data.limits import MAX_TRIES
from fastmim_jax.data.sources import Source

_SHOWN = 5  # classes in a sentence


def candidates(source: Source, index: int, most: int = MAX_TRIES) -> Iterator[int]:
    """Yield a record, then those to try in its place: the next of its class, then the next of any.

    most: records in all; at most half of them are of the class, where there are other classes.
    """
    yield index
    number = min(most, len(source))
    same = _next_of_class(source, index)[: max(most // 2, 1)]
    yield from same[: number - 1]
    tried = {index, *same}
    others = ((index + offset) % len(source) for offset in range(1, len(source)))
    left = number - len(tried)
    for other in others:
        if left <= 0:
            return
        if other not in tried:
            left -= 1
            yield other


def label_of(source: Source, index: int) -> int:
    """Return the label of a record, -1 where it has none or it cannot be read."""
    try:
        return int(source.label(index)) if len(source.classes) else -1
    except Exception:  # the label may be stored in the record that cannot be read
        return -1


def describe_broken_classes(source: Source, decoded: Sequence[int], bad: Sequence[int]) -> list[str]:
    """Return a sentence on the classes whose every record of those read is bad, in a list; [] without.

    Args:
      decoded, bad: indices of the records that could be decoded, and of those that could not.
    """
    if not len(bad) or not len(source.classes):
        return []
    counts: dict[int, int] = {}
    for index in bad:
        label = label_of(source, int(index))
        counts[label] = counts.get(label, 0) + 1
    counts.pop(-1, None)
    for index in decoded:
        if not counts:
            break
        counts.pop(label_of(source, int(index)), None)
    return describe_classes({source.classes[label]: count for label, count in sorted(counts.items())})


def describe_classes(counts: dict[str, int]) -> list[str]:
    """Return a sentence on classes without a good image, in a list; counts: {class: number of images}."""
    if not counts:
        return []
    shown = ", ".join(f"{name} ({count:,})" for name, count in list(counts.items())[:_SHOWN])
    more = ", ..." * (len(counts) > _SHOWN)
    noun = "1 class" if len(counts) == 1 else f"{len(counts):,} classes"
    return [f"no image of {noun} can be decoded: {shown}{more}"]


def _next_of_class(source: Source, index: int) -> list[int]:
    """-> the further records of the class of a record, in order from it on; [] without classes."""
    label = label_of(source, index)
    if label < 0:
        return []
    labels: Any = getattr(source, "all_labels", lambda: None)()
    if labels is None:  # labels that are read with the records
        nearby = [(index + offset) % len(source) for offset in range(1, min(len(source), MAX_TRIES))]
        return [other for other in nearby if label_of(source, other) == label]
    found = np.flatnonzero(labels == label)
    start = int(np.searchsorted(found, index, "right"))
    return [int(other) for other in (*found[start:], *found[:start]) if other != index]
