"""From the arrays of another library's file to a Model."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fastmim_jax.errors import UserError
from fastmim_jax.export.bundle import OF_CLS, ModelBundle, is_sincos
from fastmim_jax.export.formats.detect import candidate_formats, find_format
from fastmim_jax.export.formats.names import (
    flatten_variables,
    is_ignorable,
    published_name,
    to_ours,
    unflatten_variables,
    unknown_names,
)
from fastmim_jax.export.infer_config import infer_config, override

NO_BIAS = re.compile(r"/attn/(qkv|q|kv)/bias$")


class LoadReport(NamedTuple):
    """What became of the arrays of a file.

    format: rules.Format. loaded, fixed, missing: our paths; fixed tables are made anew, not loaded.
    unknown: published names without a place. unread: buffers and counters, which carry nothing.
    cast: dtypes that became float32. notes: what was assumed.
    """

    format: object
    loaded: list
    fixed: list
    missing: list
    unknown: list
    unread: list
    cast: list
    notes: list


def from_torch(arrays, *, format_name=None, settings=None, overrides=(), partial=False):
    """A Model from a state dict.

    Args:
      arrays: {published name: array}.
      format_name: a key of `formats.FORMATS`; None to have it told by the names.
      settings: {"backbone": {...}, "image_size", "classes", "mask_ratio", "normalize_target"}, what a
        library's own config file tells; any of these.
      overrides: "key=value" of the config, the last word; see `infer_config.override`.
      partial: whether missing arrays start fresh and unknown ones are left out, instead of an error.

    Returns:
      The Model and an Account.

    Raises:
      UserError: the arrays are of no such model, or not all of it.
    """
    formats = [find_format(format_name)] if format_name else candidate_formats(arrays)
    first = None
    for known in formats:
        try:
            return _read_as(known, arrays, settings or {}, overrides, partial)
        except (UserError, ValueError, LookupError, TypeError) as error:
            first = first or error
    if isinstance(first, UserError):
        raise first
    raise UserError(
        f"the arrays are not as the format '{formats[0].name}' has them ({type(first).__name__}: {first}): "
        "the file is damaged, or needs --format=NAME"
    ) from first


def _read_as(known, arrays, settings, overrides, partial):
    strange = unknown_names(arrays, known.name)
    if strange and not partial:
        shown = ", ".join(strange[:4]) + (" ..." if len(strange) > 4 else "")
        raise UserError(
            f"{len(strange)} of {len(arrays)} arrays have no place in the format '{known.name}': {shown}; "
            "type --partial to leave them out, or --format=NAME if it is another"
        )
    skipped = [name for name in arrays if is_ignorable(name, known.name)]
    wanted = {name: x for name, x in arrays.items() if name not in strange and name not in skipped}
    cast = sorted({str(x.dtype) for x in wanted.values() if x.dtype != np.float32})
    variables = to_ours({name: np.asarray(x, np.float32) for name, x in wanted.items()}, known.name)
    variables, fixed = _without_fixed(with_last_norm(variables), known, partial)
    shapes = {path: x.shape for path, x in flatten_variables(variables).items()}
    config, classes, notes = infer_config(known, shapes, fixed, settings)
    override(config, overrides)
    notes = [note for note in notes if not any(f"{x.partition('=')[0]}=" in note for x in overrides)]
    model = ModelBundle(config, variables, classes, format=known.name)
    variables, missing, surplus, more = _completed(model, known, partial)
    loaded = [path for path in flatten_variables(variables) if path not in missing]
    strange = [*strange, *(published_name(path, known.name) for path in surplus)]
    account = LoadReport(known, loaded, fixed, missing, strange, skipped, cast, notes + more)
    return model._replace(variables=variables), account


def with_last_norm(variables):
    """The norm of a pooling as the backbone's last one, in variables without a head that have no other."""
    params = variables["params"]
    pooling = params.get("pooling", {})
    if "head" in params or "norm" in params["encoder"] or set(pooling) != {"norm"}:
        return variables
    encoder = {**params["encoder"], "norm": pooling["norm"]}
    rest = {name: tree for name, tree in params.items() if name != "pooling"}
    return {**variables, "params": {**rest, "encoder": encoder}}


def _without_fixed(variables, known, partial):
    """-> the variables without tables of sine-cosine positions, {path: shape} of those."""
    arrays = flatten_dict(variables, sep="/")
    fixed = {}
    for path in [path for path in arrays if path.endswith("position/pos_embed")]:
        of_cls = arrays.get(path.replace("pos_embed", OF_CLS))
        decoder = path.startswith("params/decoder/")
        if not is_sincos(arrays[path], of_cls):
            if decoder and not partial:
                raise UserError(
                    f"'{published_name(path.removeprefix('params/'), known.name)}' is not the sine-cosine "
                    "table that decoders have here: type --partial to leave it out"
                )
            if not decoder:
                continue
        elif known.family == "vit" and known.kind == "classifier":
            continue  # learned there, even where it has not moved
        for part in {path, path.replace("pos_embed", OF_CLS)} & arrays.keys():
            fixed[part.removeprefix("params/")] = arrays.pop(part).shape
    return unflatten_dict(arrays, sep="/"), fixed


def _completed(model, known, partial):
    """-> variables of exactly the model's network, paths that start fresh, paths left out, assumptions."""
    given, wanted = flatten_variables(model.variables), flatten_variables(model.shapes())
    zeros = _zeros(given, wanted)
    given |= zeros
    surplus, missing = [p for p in given if p not in wanted], [p for p in wanted if p not in given]
    for paths, told in ((missing, "lacks"), (surplus, "has more than the model needs:")):
        if paths and not partial:
            names = [published_name(path, known.name) for path in paths]
            shown = ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
            raise UserError(
                f"the file {told} {shown} ({len(names)} in all, as the format '{known.name}' has them): "
                "type --partial if that is meant"
            )
    for path, value in given.items():
        if path in wanted and value.shape != wanted[path].shape:
            raise UserError(
                f"'{published_name(path, known.name)}' makes an array of {value.shape}, but the model of "
                f"the others has {wanted[path].shape} there: the file is damaged, or needs --format=NAME"
            )
    fresh = flatten_variables(_initial(model)) if missing else {}
    arrays = {path: given[path] if path in given else fresh[path] for path in wanted}
    notes = [f"{len(zeros)} biases of attention, which the file does not have, are zero"] if zeros else []
    return unflatten_variables(arrays), missing, surplus, notes


def _zeros(given, wanted):
    """{path: zeros} of biases in attention, where a file has none of them: it means that there are none."""
    biased = {path.split("/")[0] for path in given if NO_BIAS.search(path)}
    lacking = [path for path in wanted if NO_BIAS.search(path) and path.split("/")[0] not in biased]
    return {path: np.zeros(wanted[path].shape, np.float32) for path in lacking if path not in given}


def _initial(model):
    images = jnp.zeros((1, *model.image_shape), jnp.float32)
    keys = {"params": jax.random.key(0), "mask": jax.random.key(0)}
    return jax.device_get(jax.jit(model.network().init)(keys, images))
