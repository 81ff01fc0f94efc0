"""Files of named arrays: checkpoints of torch.save and safetensors, found, unwrapped and written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes  # noqa: F401  # safetensors asks numpy for bfloat16
import numpy as np
import safetensors
import safetensors.numpy

from fastmim_jax.errors import UserError
from fastmim_jax.export.extras import import_torch
from fastmim_jax.export.torch_file.reader import read_pth
from fastmim_jax.io import atomic_write

# Under which of its entries a checkpoint has the arrays of the model; the first that there is.
WRAPPERS = (
    *("model", "state_dict", "model_state_dict", "module", "teacher", "encoder", "target_encoder"),
    *("backbone", "student", "net", "network", "weights", "params", "model_ema", "state_dict_ema", "ema"),
)
# What distributed training, torch.compile and Lightning put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.")
DEPTH = 4  # of wrappers in wrappers
IN_FOLDER = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


class Tensors(NamedTuple):
    """The arrays of a file.

    arrays: {name: array}. wrapper: dotted key of the entry that had them, "" for the file's whole.
    prefix: what all names started with, now stripped. others: what else the file holds, to be told.
    note: what `write_...` was given as a note, "" in files of others.
    """

    arrays: dict
    wrapper: str
    prefix: str
    others: list
    note: str = ""


NOTE = "fastmim_jax"  # entry of a file, beside the arrays


def read_tensors(path, key=None):
    """Reads named arrays, whatever the file's name.

    Args:
      path: a checkpoint of torch.save, a safetensors file, the JSON index of one in several parts, or a
        folder with model.safetensors or pytorch_model.bin.
      key: dotted key of the entry that has the arrays, such as "model_ema"; None for the first of
        WRAPPERS that there is, or else the file itself.

    Raises:
      UserError: no such file or entry, another kind of file, or no arrays in it.
    """
    path = _in_folder(Path(path).expanduser())
    tree = _read_tree(path)
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds a {type(tree).__name__}: expected named arrays, a dict of tensors")
    wrapper = _find(tree) if key is None else key
    found, others = tree, []
    for part in wrapper.split(".") if wrapper else ():
        if not isinstance(found, dict) or part not in found:
            raise UserError(f"{path} has no entry {wrapper!r}: {_choice(tree)}")
        others += [_told(name, value) for name, value in found.items() if name != part]
        found = found[part]
    if not _is_state(found):
        raise UserError(
            f"{path} has no arrays {f'under {wrapper!r}' if wrapper else 'in it'}: {_choice(tree)}"
        )
    others += [_told(name, value) for name, value in found.items() if not _is_array(name, value)]
    arrays = {name: value for name, value in found.items() if _is_array(name, value)}
    prefix = _shared_prefix(arrays)
    arrays = {name.removeprefix(prefix): x for name, x in arrays.items()}
    note = tree[NOTE] if isinstance(tree.get(NOTE), str) else ""
    return Tensors(arrays, wrapper, prefix, [x for x in others if not note or x != NOTE], note)


def write_safetensors(path, arrays, note="", overwrite=False):
    """Writes {name: array} with the names of a PyTorch state dict, each array with its own dtype.

    note: text to read back, in the metadata, where transformers wants to see {"format": "pt"}.

    Raises:
      UserError: it exists and is not to be overwritten, or a dtype that safetensors does not have.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = {"format": "pt", **({NOTE: note} if note else {})}
    with atomic_write(path, overwrite) as temporary:
        try:
            safetensors.numpy.save_file(arrays, temporary, metadata)
        except safetensors.SafetensorError as error:
            raise UserError(
                f"{path} cannot be written ({error}): expected arrays of plain numbers"
            ) from error


def write_pth(path, arrays, note="", wrapper="model", overwrite=False):
    """Writes {name: array} as torch.save({wrapper: tensors}), each array with its own dtype.

    note: text to read back, an entry beside the tensors' where they have a wrapper.
    wrapper: "" for the tensors without one.

    Raises:
      UserError: it exists and is not to be overwritten, or torch is not installed.
    """
    torch = import_torch()
    tensors = {name: _tensor(torch, array) for name, array in arrays.items()}
    with atomic_write(path, overwrite) as temporary:
        beside = {NOTE: note} if note else {}
        torch.save({wrapper: tensors, **beside} if wrapper else tensors, temporary)


def _tensor(torch, array):
    array = np.array(array, order="C")  # a copy: PyTorch wants to be able to write to it
    try:
        return torch.from_numpy(array)
    except TypeError:  # the dtypes of ml_dtypes
        bits = array.view(f"i{array.dtype.itemsize}")
        return torch.from_numpy(bits).view(getattr(torch, array.dtype.name))


def _in_folder(path):
    if not path.is_dir():
        return path
    for name in IN_FOLDER:
        if (path / name).exists():
            return path / name
    raise UserError(
        f"{path} has no model.safetensors or pytorch_model.bin: name the file that holds the arrays"
    )


def _read_tree(path):
    head = _head(path)
    return _read_parts(path) if head[:1] == b"{" else _read_one(path, head)


def _read_one(path, head):
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27:
        return _read_safetensors(path)
    return read_pth(path)


def _head(path):
    try:
        with path.open("rb") as file:
            return file.read(9)
    except OSError:
        return b""  # read_pth tells why


def _read_safetensors(path):
    try:
        with safetensors.safe_open(path, framework="np") as file:
            note = (file.metadata() or {}).get(NOTE)
            return {name: file.get_tensor(name) for name in file.keys()} | ({NOTE: note} if note else {})
    except AttributeError as error:  # a dtype that numpy has no name for
        raise UserError(f"{path} cannot be read ({error}): expected arrays of 16 bits or more") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is cut short or damaged ({error}): fetch the safetensors file again"
        ) from error


def _read_parts(path):
    """Arrays that are in several files, by the index that names the file of each."""
    try:
        places = json.loads(path.read_bytes())["weight_map"]
        files = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no index of arrays: expected JSON with a weight_map") from error
    arrays = {}
    for name in files:
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(f"{path} names the part {name!r}: expected files beside it")
        part = path.parent / name
        if not part.exists():
            raise UserError(f"{path.parent} has no {name}, which {path.name} names: fetch all parts")
        tree = _read_one(part, _head(part))
        if not _is_state(tree):
            raise UserError(f"{part} has no arrays: expected the part of a model that {path.name} names")
        arrays |= tree
    missing = sorted(places.keys() - arrays.keys())
    if missing:
        raise UserError(f"{path} names {missing[0]!r}, which is in none of its parts: fetch them again")
    return arrays


def _is_array(name, value):
    return isinstance(name, str) and isinstance(value, np.ndarray)


def _is_state(tree):
    return isinstance(tree, dict) and any(_is_array(name, value) for name, value in tree.items())


def _find(tree, depth=DEPTH):
    """Dotted key of the arrays; "" where no entry of a known name has any."""
    for name in WRAPPERS if depth else ():
        inner = tree.get(name)
        if isinstance(inner, dict):
            below = _find(inner, depth - 1)
            if below or _is_state(inner):
                return f"{name}.{below}" if below else name
    return ""


def _choice(tree):
    """What may be typed instead."""
    states = [str(name) for name, value in tree.items() if _is_state(value)]
    there = ", ".join(map(str, list(tree)[:8])) + (", ..." if len(tree) > 8 else "")
    if states:
        return f"choose one of {', '.join(states)} by its key"
    return f"expected named arrays, it holds {there or 'nothing'}"


def _told(name, value):
    entries = len(value) if isinstance(value, Mapping | list | tuple) else None
    return str(name) if entries is None else f"{name} ({entries} entries)"


def _shared_prefix(names):
    """As many of PREFIXES as all names start with, one after the other."""
    prefix = ""
    while longer := [prefix + more for more in PREFIXES if all(n.startswith(prefix + more) for n in names)]:
        prefix = longer[0]
    return prefix
