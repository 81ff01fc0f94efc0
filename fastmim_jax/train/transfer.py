"""Transfer parameters to a model with the same backbone: shallower, of another image size, with a head."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict

from fastmim_jax.errors import UserError
from fastmim_jax.models.resample import RULES, resample

MIN_SHARE = 0.25  # of the backbone's arrays that must fit for a checkpoint to be of the same backbone
# Tables per block that start as the one table shared by all blocks, as in SimMIM's fine-tuning.
SHARED = re.compile(r"(.*encoder)/blocks/\d+/attn/(relative_position/.*)")


class TransferReport(NamedTuple):
    """Paths ("collection/module/.../name") of a transfer.

    Attributes:
      loaded: arrays loaded unchanged.
      resampled: arrays resampled for another grid.
      fresh: arrays of the target with their own initial values.
      unused: arrays of the source that the target does not have.
    """

    loaded: list[str]
    resampled: list[str]
    fresh: list[str]
    unused: list[str]

    def describe(self) -> list[tuple[str, str]]:
        """Return [(label, text)] with counts and modules."""
        tables = Counter(path.split("/")[-1] for path in self.resampled)
        return [
            ("loaded", f"{len(self.loaded)} arrays: {', '.join(modules(self.loaded)) or 'none'}"),
            ("resampled", ", ".join(f"{count} x {name}" for name, count in tables.items()) or "none"),
            ("start fresh", ", ".join(modules(self.fresh)) or "none"),
            ("not used", ", ".join(modules(self.unused)) or "none"),
        ]


def transfer(
    source: Mapping[str, Any], target: Mapping[str, Any], schemes: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], TransferReport]:
    """Return the target's variables with the values of the source wherever it has them.

    Args:
      source: variables {"params": nested, ...}, such as those of a pre-training method.
      target: initial variables of the other model, arrays.
      schemes: see `models.resample.resampling_matrices`.

    Returns:
      New variables in the shapes of the target, and a TransferReport. Arrays of another shape outside the
      backbone start fresh: a head for other classes, the decoder of another target.

    Raises:
      UserError: nothing of the source fits, too little of the backbone does, or a part of it has another
        width.

    >>> import numpy as np
    >>> source = {"params": {"encoder": {"kernel": np.ones(2)}, "mask_token": np.ones(1)}}
    >>> target = {"params": {"encoder": {"kernel": np.zeros(2)}, "head": {"bias": np.zeros(3)}}}
    >>> variables, report = transfer(source, target)
    >>> variables["params"]["encoder"]["kernel"]
    array([1., 1.])
    >>> report.loaded, report.fresh, report.unused
    (['params/encoder/kernel'], ['params/head/bias'], ['params/mask_token'])
    """
    arrays, initials = flatten_dict(source, sep="/"), flatten_dict(target, sep="/")
    report, merged, used = TransferReport([], [], [], []), {}, set()
    for path, initial in initials.items():
        name = path if path in arrays else SHARED.sub(r"\1/\2", path)
        value = arrays.get(name)
        # Heads and decoders for other classes or another target start fresh.
        if value is None or (value.shape != initial.shape and not _in_backbone(path)):
            report.fresh.append(path)
            merged[path] = initial
            continue
        used.add(name)
        if value.shape == initial.shape:
            report.loaded.append(path)
            merged[path] = value
        elif path.split("/")[-1] in RULES:
            report.resampled.append(path)
            merged[path] = _resample(path, value, initial.shape, schemes)
        else:
            raise _shape_error(path, value.shape, initial.shape)
    report.unused.extend(path for path in arrays if path not in used)
    _check_share(report, arrays, initials)
    return unflatten_dict(merged, sep="/"), report


def _in_backbone(path: str) -> bool:
    return path.split("/")[1] == "encoder"


def _check_share(report: TransferReport, source: Iterable[str], target: Iterable[str]) -> None:
    fitting, backbone = (
        [path for path in paths if path.startswith("params/") and _in_backbone(path)]
        for paths in ([*report.loaded, *report.resampled], target)
    )
    if (report.loaded or report.resampled) and len(fitting) >= MIN_SHARE * len(backbone):
        return
    raise UserError(
        f"{len(fitting)} of {len(backbone)} arrays of the backbone fit: the source has "
        f"{', '.join(modules(source)[:4])}, the model has {', '.join(modules(target)[:4])}; "
        "give a checkpoint of the same backbone"
    )


def _resample(path: str, value: Any, shape: tuple[int, ...], schemes: Mapping[str, Any] | None) -> Any:
    try:
        return resample(path, value, shape, schemes)
    except ValueError as error:
        raise _shape_error(path, value.shape, shape) from error


def _shape_error(path: str, source: tuple[int, ...], target: tuple[int, ...]) -> UserError:
    return UserError(
        f"'{path}' is {source} in the source and {target} in the model: give a checkpoint of the same "
        "backbone, or the backbone that the checkpoint has"
    )


def modules(paths: Iterable[str]) -> list[str]:
    """Return the names of the modules of these paths; blocks as a range, such as "encoder/blocks 8-11"."""
    blocks: dict[str, set[int]] = {}
    others: dict[str, None] = {}
    for path in paths:
        parts = path.split("/")[1:]  # without the collection
        index = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        if index is None:
            name = "/".join(parts[:2]) if parts[0] == "encoder" else parts[0]
            others[name] = None
        else:
            blocks.setdefault("/".join(parts[:index]), set()).add(int(parts[index]))
    ranges = [f"{name} {_ranges(sorted(numbers))}" for name, numbers in blocks.items()]
    return [*ranges, *others]


def _ranges(numbers: list[int]) -> str:
    """Return "8-10, 12" of [8, 9, 10, 12]."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
