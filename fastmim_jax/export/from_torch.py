"""From the arrays of another library's file to a ModelBundle."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fastmim_jax.errors import FormatMismatch, UserError
from fastmim_jax.export.bundle import CLS_TABLE, ModelBundle, is_sincos, move_pooling_norm
from fastmim_jax.export.formats.detect import candidate_formats, find_format
from fastmim_jax.export.formats.grids import GridHints
from fastmim_jax.export.formats.names import (
    flatten_variables,
    is_ignorable,
    published_name,
    to_ours,
    unflatten_variables,
    unknown_names,
)
from fastmim_jax.export.formats.rules import Format
from fastmim_jax.export.infer_config import Assumption, image_size_of, infer_config
from fastmim_jax.saved_config import config_key, override

ATTENTION_BIAS = re.compile(r"/attn/(qkv|q|kv)/bias$")
SHOWN_NAMES = 4  # in a message
NOT_REAL = "SUOc"  # kinds of NumPy dtypes: bytes, text, objects, complex


@dataclass
class LoadReport:
    """Report on the arrays of a file that was loaded.

    Attributes:
      format: the format that the file was read in.
      loaded: our paths of loaded arrays.
      values: number of values in all arrays of the model.
      recomputed: our paths of sine-cosine tables, which are computed here instead of loaded.
      missing: our paths that the file lacks; they have initial values.
      unknown_names: published names that the model has no array for.
      buffers: published names of buffers that carry no information, such as counters.
      cast: dtypes that were converted to float32.
      zero_biases: number of biases of attention that the file lacks in all blocks, and that are zero.
      assumptions: config values that the file does not determine.
    """

    format: Format
    loaded: list[str] = field(default_factory=list)
    values: int = 0
    recomputed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unknown_names: list[str] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)
    cast: list[str] = field(default_factory=list)
    zero_biases: int = 0
    assumptions: list[Assumption] = field(default_factory=list)


def from_torch(
    arrays: Mapping[str, np.ndarray],
    *,
    format_name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
    partial: bool = False,
) -> tuple[ModelBundle, LoadReport]:
    """Load a PyTorch state dict into a ModelBundle.

    Args:
      arrays: {published name: array}.
      format_name: a key of `formats.FORMATS`; None to detect the format by the names.
      settings: facts that the arrays do not determine, from the file or its config.json: any of
        {"backbone": {...}, "decoder": {...}, "image_size", "classes", "pooling", "mask_ratio",
        "normalize_target", "block_size", "grids": see `grids.GridHints`}.
      overrides: "key=value" of the config; they have the last word, see `saved_config.override`.
      partial: leave out unknown arrays and give missing ones initial values, instead of an error.

    Raises:
      FormatMismatch: the arrays fit no format, or only a part of one.
      UserError: no such format, or an array with NaN or infinity.
    """
    formats = [find_format(format_name)] if format_name else candidate_formats(arrays)
    mismatches = []
    for fmt in formats:
        try:
            return _load_as(fmt, arrays, settings or {}, tuple(overrides), partial)
        except FormatMismatch as error:
            mismatches.append(error)
    raise mismatches[0]


def _load_as(fmt, given, settings, overrides, partial):
    foreign = unknown_names(given, fmt.name)
    if foreign and not partial:
        count = f"{len(foreign)} of {len(given)} arrays"
        raise FormatMismatch(
            f"{count} {'has' if len(foreign) == 1 else 'have'} no place in the format '{fmt.name}': "
            f"{_shown(foreign)}; type --partial to leave them out, or --format=NAME if it is another"
        )
    buffers = [name for name in given if is_ignorable(name, fmt.name)]
    parameters = {name: x for name, x in given.items() if name not in foreign and name not in buffers}
    for name, x in parameters.items():
        if x.dtype.kind in NOT_REAL:
            raise FormatMismatch(f"'{name}' is an array of {x.dtype}, expected real numbers")
    with np.errstate(over="ignore"):  # infinity is an error below
        parameters32 = {name: np.asarray(x, np.float32) for name, x in parameters.items()}
    check_finite(parameters32)
    hints = GridHints(image_size_of(overrides) or settings.get("image_size"), settings.get("grids", {}))
    variables = to_ours(parameters32, fmt.name, hints)
    variables, fixed = _split_fixed_tables(move_pooling_norm(variables), fmt, partial)
    shapes = {path: x.shape for path, x in flatten_variables(variables).items()}
    config, classes, assumptions = infer_config(fmt, shapes, fixed, settings)
    override(config, overrides)
    overridden = {config_key(setting) for setting in overrides}
    report = LoadReport(
        fmt,
        recomputed=list(fixed),
        buffers=buffers,
        cast=sorted({str(x.dtype) for x in parameters.values() if x.dtype != np.float32}),
        assumptions=[assumption for assumption in assumptions if assumption.key not in overridden],
    )
    bundle = ModelBundle(config, variables, classes, format=fmt.name)
    variables, surplus = _complete(bundle, fmt, partial, report)
    arrays = flatten_variables(variables)
    report.loaded = [path for path in arrays if path not in report.missing]
    report.values = sum(x.size for x in arrays.values())
    report.unknown_names = [*foreign, *(published_name(path, fmt.name) for path in surplus)]
    return bundle._replace(variables=variables), report


def check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays with values that are not finite.

    Args:
      arrays: {name: float32 array}.

    Raises:
      UserError: there is one; the message names it.
    """
    for name, x in arrays.items():
        finite = np.isfinite(x)
        if not finite.all():
            kinds = [kind for kind, test in (("NaN", np.isnan), ("infinity", np.isinf)) if test(x).any()]
            raise UserError(
                f"'{name}' has {' and '.join(kinds)} in {x.size - np.count_nonzero(finite):,} of its "
                f"{x.size:,} values as float32: training has diverged or the file is damaged; give another "
                "checkpoint"
            )


def _split_fixed_tables(variables, fmt, partial):
    """-> (variables without sine-cosine tables of positions, {path: shape} of these tables)."""
    arrays = flatten_dict(variables, sep="/")
    fixed = {}
    for path in [path for path in arrays if path.endswith("position/pos_embed")]:
        cls_path = path.replace("pos_embed", CLS_TABLE)
        in_decoder = path.startswith("params/decoder/")
        if not is_sincos(arrays[path], arrays.get(cls_path)):
            if in_decoder and not partial:
                name = published_name(path.removeprefix("params/"), fmt.name)
                raise FormatMismatch(
                    f"'{name}' is not the sine-cosine table that decoders have here: type --partial to "
                    "leave it out"
                )
            if not in_decoder:
                continue
        elif fmt.family == "vit" and fmt.kind == "classifier":
            continue  # learned in this format, even if training left it unchanged
        for part in {path, cls_path} & arrays.keys():
            fixed[part.removeprefix("params/")] = arrays.pop(part).shape
    return unflatten_dict(arrays, sep="/"), fixed


def _complete(bundle, fmt, partial, report):
    """-> (variables of exactly the bundle's network, paths left out); adds to the report."""
    given, expected = flatten_variables(bundle.variables), flatten_variables(bundle.shapes())
    zeros = _zero_biases(given, expected)
    given |= zeros
    surplus, missing = [p for p in given if p not in expected], [p for p in expected if p not in given]
    for paths, seen in ((missing, "lacks"), (surplus, "has more than the model needs:")):
        if paths and not partial:
            names = [published_name(path, fmt.name) for path in paths]
            raise FormatMismatch(
                f"the file {seen} {_shown(names)} ({len(names)} in all, as the format '{fmt.name}' has "
                "them): type --partial if that is meant"
            )
    for path, value in given.items():
        if path in expected and value.shape != expected[path].shape:
            raise FormatMismatch(
                f"'{published_name(path, fmt.name)}' makes an array of {value.shape}, but the model of the "
                f"other arrays has {expected[path].shape} there: the file is damaged, or needs "
                "--format=NAME"
            )
    initial = flatten_variables(_initial(bundle)) if missing else {}
    arrays = {path: given[path] if path in given else initial[path] for path in expected}
    report.missing, report.zero_biases = missing, len(zeros)
    return unflatten_variables(arrays), surplus


def _zero_biases(given, expected):
    """{path: zeros} of the biases of attention in modules that have none in the file: trained without."""
    with_bias = {path.split("/")[0] for path in given if ATTENTION_BIAS.search(path)}
    biases = [path for path in expected if ATTENTION_BIAS.search(path)]
    lacking = [path for path in biases if path.split("/")[0] not in with_bias]
    return {path: np.zeros(expected[path].shape, np.float32) for path in lacking}


def _initial(bundle):
    images = jnp.zeros((1, *bundle.image_shape), jnp.float32)
    keys = {"params": jax.random.key(0), "mask": jax.random.key(0)}
    return jax.device_get(jax.jit(bundle.network().init)(keys, images))


def _shown(names):
    return ", ".join(names[:SHOWN_NAMES]) + (" ..." if len(names) > SHOWN_NAMES else "")
