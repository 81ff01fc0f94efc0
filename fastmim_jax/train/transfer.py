"""Parameters of one model for another that shares its backbone: shallower, of another size, with a head."""

import re
from collections import Counter
from typing import NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict

from fastmim_jax.errors import UserError
from fastmim_jax.models.resample import RULES, resample

LEAST = 0.25  # share of the backbone's arrays that a checkpoint must have, to be one of the same backbone
# Tables of every block's own that begin as the one that all blocks shared, as SimMIM's fine-tuning has it.
SHARED = re.compile(r"(.*encoder)/blocks/\d+/attn/(relative_position/.*)")


class Report(NamedTuple):
    """Paths ("collection/module/.../name") by what became of them.

    loaded: taken as they are. resampled: for another grid. fresh: the target's own initial values.
    unused: of the source, without a place in the target.
    """

    loaded: list
    resampled: list
    fresh: list
    unused: list

    def describe(self):
        """[(label, text)]: counts, and which modules."""
        tables = Counter(path.split("/")[-1] for path in self.resampled)
        return [
            ("loaded", f"{len(self.loaded)} arrays: {', '.join(modules(self.loaded)) or 'none'}"),
            ("resampled", ", ".join(f"{count} x {name}" for name, count in tables.items()) or "none"),
            ("start fresh", ", ".join(modules(self.fresh)) or "none"),
            ("not used", ", ".join(modules(self.unused)) or "none"),
        ]


def transfer(source, target, schemes=None):
    """The target's variables with every value that the source has for them.

    Args:
      source: variables {"params": nested, ...}, such as those of a pre-training method.
      target: initial variables of the other model, arrays.
      schemes: how tables are resampled, where not as usual; see `models.resample.resampling_matrices`.

    Returns:
      New variables in the shapes of the target, and a Report. What is of another shape starts fresh where
      it is not of the backbone: a head for other classes, the decoder of another target.

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
    theirs, ours = flatten_dict(source, sep="/"), flatten_dict(target, sep="/")
    report, found, used = Report([], [], [], []), {}, set()
    for path, initial in ours.items():
        name = path if path in theirs else SHARED.sub(r"\1/\2", path)
        value = theirs.get(name)
        # Heads and decoders of another target or another number of classes are nothing to go on from.
        if value is None or (value.shape != initial.shape and not _of_backbone(path)):
            report.fresh.append(path)
            found[path] = initial
            continue
        used.add(name)
        if value.shape == initial.shape:
            report.loaded.append(path)
            found[path] = value
        elif path.split("/")[-1] in RULES:
            report.resampled.append(path)
            found[path] = _resampled(path, value, initial.shape, schemes)
        else:
            raise _misfit(path, value.shape, initial.shape)
    report.unused.extend(path for path in theirs if path not in used)
    _check_share(report, theirs, ours)
    return unflatten_dict(found, sep="/"), report


def _of_backbone(path):
    return path.split("/")[1] == "encoder"


def _check_share(report, theirs, ours):
    taken, backbone = (
        [path for path in paths if path.startswith("params/") and _of_backbone(path)]
        for paths in ([*report.loaded, *report.resampled], ours)
    )
    if (report.loaded or report.resampled) and len(taken) >= LEAST * len(backbone):
        return
    raise UserError(
        f"{len(taken)} of {len(backbone)} arrays of the backbone fit: the source has "
        f"{', '.join(modules(theirs)[:4])}, the model has {', '.join(modules(ours)[:4])}; "
        "give a checkpoint of the same backbone"
    )


def _resampled(path, value, shape, schemes):
    try:
        return resample(path, value, shape, schemes)
    except ValueError as error:
        raise _misfit(path, value.shape, shape) from error


def _misfit(path, theirs, ours):
    return UserError(
        f"'{path}' is {theirs} in the source and {ours} in the model: give a checkpoint of the same "
        "backbone, or the backbone that the checkpoint has"
    )


def modules(paths):
    """Names of the modules that hold these paths; of blocks a range, such as "encoder/blocks 8-11"."""
    blocks, others = {}, {}
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


def _ranges(numbers):
    """[8, 9, 10, 12] -> "8-10, 12"."""
    runs = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
