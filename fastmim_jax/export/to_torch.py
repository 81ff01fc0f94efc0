"""From a Model to the arrays of another library's file."""

import json
from typing import NamedTuple

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.export.bundle import position_tables
from fastmim_jax.export.formats import FORMATS
from fastmim_jax.export.formats.detect import find_format
from fastmim_jax.export.formats.names import (
    count_missing_paths,
    flatten_variables,
    to_theirs,
    unflatten_variables,
    unknown_paths,
)

# Arrays of pre-training alone, which libraries of backbones and classifiers have no place for.
PRETRAINING = ("decoder/", "mask_token", "pred/", "reconstruct/")


OWN_NORM = "pooling/norm/scale"


class TorchArrays(NamedTuple):
    """format: rules.Format. state: {published name: array}. dropped: our paths without a place in it."""

    format: object
    state: dict
    dropped: list


def formats_for(model, library):
    """Formats of a library that a Model could be written in: of its own kind first, then as a backbone."""
    found = [
        known for known in FORMATS.values() if known.library == library and known.family == model.family
    ]
    same = [known for known in found if known.kind == model.kind]
    return same + [known for known in found if known.kind == "classifier" and known not in same]


def to_torch(model, library, format_name=None):
    """A Written of a Model.

    Args:
      library: a key of `formats.LIBRARIES`.
      format_name: one format of it.

    Raises:
      UserError: the library has no such model, or no place for a part of its backbone.
    """
    formats = [find_format(format_name)] if format_name else formats_for(model, library)
    if not formats:
        others = sorted({known.library for known in FORMATS.values() if formats_for(model, known.library)})
        raise UserError(f"{library} has no {model.family}: type --to= with one of {', '.join(others)}")
    known = min(formats, key=lambda known: _misfit(model, known))
    arrays, lacking = _form(model, known)
    needed = _needed(lacking, known, model)
    if needed:
        raise UserError(
            f"the format '{known.name}' has no place for {', '.join(needed[:3])} ({len(needed)} arrays): "
            "type --to=official, or --encoder_only where they are not of the backbone"
        )
    kept = {path: x for path, x in arrays.items() if path not in lacking}
    state = to_theirs(unflatten_variables(kept), known.name)
    for buffers in known.buffers:
        state |= buffers(state, model.image_shape[:2])
    return TorchArrays(known, {name: np.asarray(x, order="C") for name, x in state.items()}, lacking)


def note_of(model):
    """What arrays do not tell of a Model, as JSON: `settings` of `inward.from_torch`."""
    section, data = model.section, model.config.data
    told = {"image_size": list(data.image_size), "backbone": {}}
    heads = getattr(model.encoder, "heads", None)
    if heads is not None:
        told["backbone"]["heads"] = heads if isinstance(heads, int) else list(heads)
    if model.classes:
        told |= {"classes": list(model.classes), "pooling": model.pooling}
    if model.kind != "classifier":
        told |= {key: section[key] for key in ("mask_ratio", "normalize_target", "block_size")}
        told["decoder"] = {key: section.decoder[key] for key in ("heads", "epsilon")}
    return json.dumps(told)


def settings_of(note):
    """The inverse of `note_of`; {} for an empty note or one that is none."""
    try:
        told = json.loads(note or "{}")
    except ValueError:
        return {}
    return {key: _plain(x) for key, x in told.items()} if isinstance(told, dict) else {}


def _plain(x):
    if isinstance(x, dict):
        return {key: _plain(value) for key, value in x.items()}
    return tuple(x) if isinstance(x, list) else x


def _misfit(model, known):
    """Smaller fits better: arrays without a place, first those that count, then places without an array.

    Of two formats that have a place for the norm of a pooling, the one that calls it so comes first.
    """
    arrays, lacking = _form(model, known)
    moved = bool(unknown_paths([OWN_NORM], known.name))
    return len(_needed(lacking, known, model)), len(lacking), moved, count_missing_paths(arrays, known.name)


def _form(model, known):
    """-> ({path: array} as a format has them, but for names; those paths without a place in it).

    Positions that the model makes itself are tables there, and a norm before the mean over cells stands
    where that of the backbone does, unless the format has a place of its own for it.
    """
    arrays = flatten_variables(model.variables)
    tables = position_tables(model)
    arrays |= {path: x for path, x in tables.items() if not unknown_paths([path], known.name)}
    if model.pooling == "norm_pool" and unknown_paths([OWN_NORM], known.name):
        arrays = {path.replace("pooling/norm", "encoder/norm"): x for path, x in arrays.items()}
    return arrays, unknown_paths(arrays, known.name)


def _needed(lacking, known, model):
    """Of arrays without a place in a format those that cannot be left out."""
    if model.kind == known.kind:
        return lacking
    return [path for path in lacking if not path.startswith(PRETRAINING)]
