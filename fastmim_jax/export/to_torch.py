"""From a ModelBundle to the arrays of another library's file."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.export.bundle import ModelBundle, position_tables
from fastmim_jax.export.formats import FORMATS
from fastmim_jax.export.formats.detect import find_format
from fastmim_jax.export.formats.grids import flattened_grids
from fastmim_jax.export.formats.names import (
    count_missing_paths,
    flatten_variables,
    published_name,
    to_theirs,
    unflatten_variables,
    unknown_paths,
)
from fastmim_jax.export.formats.rules import Format
from fastmim_jax.validate.names import count

# Arrays of pre-training alone; formats of backbones and classifiers have no place for them.
PRETRAINING = ("decoder/", "decoder_", "mask_token", "pred/", "reconstruct/")
POOLING_NORM = "pooling/norm/scale"


@dataclass(frozen=True)
class TorchArrays:
    """A model in the names of a format.

    Attributes:
      format: the format.
      state: {published name: array}.
      dropped: our paths that the format has no place for.
    """

    format: Format
    state: dict[str, np.ndarray]
    dropped: list[str]


def formats_for(bundle: ModelBundle, library: str) -> list[Format]:
    """Return the formats of a library for a model: those of its own kind, then those of its backbone."""
    formats = [fmt for fmt in FORMATS.values() if (fmt.library, fmt.family) == (library, bundle.family)]
    fused = "fuse" in bundle.variables.get("params", {})  # no format has layers that the decoder reads
    same = [fmt for fmt in formats if fmt.kind == bundle.kind and not fused]
    return same + [fmt for fmt in formats if fmt.kind == "classifier" and fmt not in same]


def to_torch(bundle: ModelBundle, library: str, format_name: str | None = None) -> TorchArrays:
    """Convert a model to the arrays of another library's file.

    Args:
      library: a key of `formats.LIBRARIES`.
      format_name: one of its formats; None for the one that fits best.

    Raises:
      UserError: the library has no such model, or no place for a part of its backbone.
    """
    formats = [find_format(format_name)] if format_name else formats_for(bundle, library)
    if not formats:
        others = sorted({fmt.library for fmt in FORMATS.values() if formats_for(bundle, fmt.library)})
        raise UserError(f"{library} has no {bundle.family}: choose --to= from: {', '.join(others)}")
    fmt = min(formats, key=lambda fmt: _misfit(bundle, fmt))
    arrays, dropped = _arrange(bundle, fmt)
    required = _required(dropped, fmt, bundle)
    if required:
        raise UserError(
            f"the format '{fmt.name}' has no place for {', '.join(required[:3])} "
            f"({count(len(required), 'array')}): type --to=official, or --encoder_only to export the "
            "backbone alone"
        )
    state = to_theirs(unflatten_variables({p: x for p, x in arrays.items() if p not in dropped}), fmt.name)
    windows = {
        published_name(path, fmt.name): (rows, columns) for path, (rows, columns) in _windows(arrays)
    }
    for buffers in fmt.buffers:
        state |= buffers(state, bundle.image_shape[:2], windows)
    return TorchArrays(fmt, {name: np.asarray(x, order="C") for name, x in state.items()}, dropped)


def _windows(arrays):
    """Yield (path, (rows, columns) of the windows) of the tables of windows that are not square."""
    for path, (rows, columns) in flattened_grids(arrays).items():
        yield path, ((rows + 1) // 2, (columns + 1) // 2)


def dump_settings(bundle: ModelBundle) -> str:
    """Return the facts that arrays do not determine as JSON, to be saved beside them; see `from_torch`."""
    section, data = bundle.section, bundle.config.data
    settings: dict[str, Any] = {"image_size": list(data.image_size), "backbone": {}}
    if bundle.encoder.stage_heads:
        heads = bundle.encoder.heads
        settings["backbone"]["heads"] = heads if isinstance(heads, int) else list(heads)
    grids = flattened_grids(flatten_variables(bundle.variables))
    if grids:
        settings["grids"] = grids
    if bundle.classes:
        settings |= {"classes": list(bundle.classes), "pooling": bundle.pooling}
    if bundle.kind != "classifier":
        settings |= {key: section[key] for key in ("mask_ratio", "normalize_target", "block_size")}
        settings["decoder"] = {key: section.decoder[key] for key in ("heads", "epsilon")}
    return json.dumps(settings)


def parse_settings(text: str) -> dict[str, Any]:
    """Invert `dump_settings`; return {} for text that is no JSON object, as in files of others."""
    try:
        settings = json.loads(text or "{}")
    except ValueError:
        return {}
    return {key: _with_tuples(x) for key, x in settings.items()} if isinstance(settings, dict) else {}


def _with_tuples(x):
    if isinstance(x, dict):
        return {key: _with_tuples(value) for key, value in x.items()}
    return tuple(x) if isinstance(x, list) else x


def _misfit(bundle, fmt):
    """Sort key of formats, smaller fits better: counts of required and of all dropped arrays, whether the
    pooling's norm has another name there, count of table entries without an array.
    """
    arrays, dropped = _arrange(bundle, fmt)
    renamed = bool(unknown_paths([POOLING_NORM], fmt.name))
    return (
        len(_required(dropped, fmt, bundle)),
        len(dropped),
        renamed,
        count_missing_paths(arrays, fmt.name),
    )


def _arrange(bundle, fmt):
    """-> ({path: array} with the tables and norms that the format has, paths without a place in it).

    A norm before the mean over tokens takes the name of the backbone's last norm, unless the format has a
    name of its own for it.
    """
    arrays = flatten_variables(bundle.variables)
    tables = position_tables(bundle)
    arrays |= {path: x for path, x in tables.items() if not unknown_paths([path], fmt.name)}

    if bundle.pooling == "norm_pool" and unknown_paths([POOLING_NORM], fmt.name):
        arrays = {path.replace("pooling/norm", "encoder/norm"): x for path, x in arrays.items()}
    return arrays, unknown_paths(arrays, fmt.name)


def _required(dropped, fmt, bundle):
    """The dropped arrays that must not be left out: all, or for a backbone those not of pre-training."""
    if bundle.kind == fmt.kind:
        return dropped
    return [path for path in dropped if not path.startswith(PRETRAINING)]
