"""Files of named arrays: reading and writing checkpoints of torch.save and safetensors."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, cast

import ml_dtypes  # noqa: F401  # safetensors asks numpy for bfloat16
import numpy as np
import safetensors
import safetensors.numpy

from fastmim_jax.errors import UserError
from fastmim_jax.export.extras import import_torch
from fastmim_jax.export.files.file_kinds import check_kind, check_part, what_folder
from fastmim_jax.export.files.safetensors_file import read_safetensors
from fastmim_jax.export.files.signature import SIGNATURE, sign
from fastmim_jax.export.torch_file.arrays import Budget, StoredArray
from fastmim_jax.export.torch_file.modules import attributes_of
from fastmim_jax.export.torch_file.reader import Checkpoint, errors_of, read_pth
from fastmim_jax.export.torch_file.unpickler import StandIn
from fastmim_jax.io import atomic_write
from fastmim_jax.paths import local_path
from fastmim_jax.validate.names import count

# Entries of a checkpoint that may hold the arrays of the model; the first that exists is taken.
WRAPPERS = (
    *("model", "state_dict", "model_state_dict", "module", "teacher", "encoder", "target_encoder"),
    *("backbone", "student", "net", "network", "weights", "params", "model_ema", "state_dict_ema", "ema"),
)
# Prefixes of all names, added by distributed training, torch.compile and Lightning.
PREFIXES = ("module.", "_orig_mod.", "model.")
# Segments inside of names, added by torch.compile, FSDP and activation checkpointing of single modules.
INFIXES = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
MAX_DEPTH = 4  # of nested wrappers
SHOWN_NAMES, SHOWN_LENGTH = 6, 80  # names in a message, characters of a name
IN_FOLDER = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
    "backbone.pth",  # of our folders for detectors
)


class Tensors(NamedTuple):
    """The arrays of a file.

    Attributes:
      arrays: {name: array}.
      wrapper: dotted key of the entry that holds them, "" for the top level.
      prefix: common prefix of all names, stripped here.
      ignored: other entries of the file, such as "optimizer (2 entries)".
      metadata: text that our own writers saved beside the arrays; "" in other files.
      unread: objects that were not read, such as "2 objects of torch.nn.MSELoss"; "" without any.
    """

    arrays: dict[str, np.ndarray]
    wrapper: str
    prefix: str
    ignored: list[str]
    metadata: str = ""
    unread: str = ""


METADATA = "fastmim_jax"  # entry of a file, beside the arrays


def read_tensors(path: str | Path, key: str | None = None) -> Tensors:
    """Read named arrays; the kind of file is detected by its content.

    Args:
      path: a checkpoint of torch.save, a pickle of numpy arrays, a safetensors file, the JSON index of one
        in several parts, or a folder with model.safetensors or pytorch_model.bin.
      key: dotted key of the entry that holds the arrays, such as "model_ema"; None for the first entry
        of WRAPPERS that exists, or else the top level.

    Raises:
      UserError: no such file or entry, another kind of file, or a file without arrays.
    """
    path = _find_file(Path(local_path(path)))
    check_part(path)
    read, size = _read_tree(path)
    tree = _entries(read.content)
    if tree is None:
        raise UserError(f"{path} holds {_kind(read.content)}: expected named arrays, a dict of tensors")
    wrapper = _find(tree) if key is None else key
    found, ignored = tree, []
    for part in wrapper.split(".") if wrapper else ():
        if found is None or part not in found:
            raise UserError(f"{path} has no entry {wrapper!r}: {_choice(tree)}")
        ignored += [_entry(name, value) for name, value in found.items() if name != part]
        found = _entries(found[part])
    if not _is_state(found):
        raise UserError(
            f"{path} has no arrays {f'under {wrapper!r}' if wrapper else 'in it'}: {_choice(tree)}"
        )
    _check_plain(path, found)
    ignored += [_entry(name, value) for name, value in found.items() if not _is_array(name, value)]
    arrays = _load(path, size, {name: value for name, value in found.items() if _is_array(name, value)})
    prefix = _shared_prefix(arrays)
    arrays = {_without_infixes(name.removeprefix(prefix)): x for name, x in arrays.items()}
    metadata = tree[METADATA] if isinstance(tree.get(METADATA), str) else ""
    ignored = [entry for entry in ignored if not metadata or entry not in (METADATA, SIGNATURE)]
    return Tensors(arrays, wrapper, prefix, ignored, metadata, _describe_unread(read.unread))


def _load(path: Path, size: int, values: Mapping[str, np.ndarray | StoredArray]) -> dict[str, np.ndarray]:
    """Read the arrays of a file of a size in bytes, of which they take a small multiple at most."""
    budget, arrays = Budget(size), {}
    with errors_of(path):
        for name, value in values.items():
            array = value if isinstance(value, np.ndarray) else cast(Callable, value.read)()
            budget.spend(4 * array.size)  # all become float32
            arrays[name] = array
    return arrays


def write_safetensors(
    path: str | Path, arrays: Mapping[str, np.ndarray], metadata: str = "", overwrite: bool = False
):
    """Write {name: array} as a safetensors file, each array with its own dtype.

    Args:
      metadata: text that `read_tensors` returns; saved beside {"format": "pt"}, which transformers needs.

    Raises:
      UserError: the file exists and must not be replaced, or safetensors has no such dtype.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    beside = {METADATA: metadata, SIGNATURE: sign(arrays)} if metadata else {}
    header = {"format": "pt", **beside}
    with atomic_write(path, overwrite) as temporary:
        try:
            safetensors.numpy.save_file(arrays, temporary, header)
        except safetensors.SafetensorError as error:
            raise UserError(
                f"{path} cannot be written ({error}): expected arrays of plain numbers"
            ) from error


def write_pth(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    metadata: str = "",
    wrapper: str = "model",
    overwrite: bool = False,
):
    """Write {name: array} by torch.save({wrapper: tensors}), each array with its own dtype.

    Args:
      metadata: text that `read_tensors` returns; an entry beside the wrapper.
      wrapper: "" for tensors at the top level, without metadata.

    Raises:
      UserError: the file exists and must not be replaced, or torch is not installed.
    """
    torch = import_torch()
    tensors = {name: _tensor(torch, array) for name, array in arrays.items()}
    beside = {METADATA: metadata, SIGNATURE: sign(arrays)} if metadata else {}
    with atomic_write(path, overwrite) as temporary:
        torch.save({wrapper: tensors, **beside} if wrapper else tensors, temporary)


def _tensor(torch, array):
    array = np.array(array, order="C")  # a copy: PyTorch needs writable memory
    try:
        return torch.from_numpy(array)
    except TypeError:  # the dtypes of ml_dtypes
        bits = array.view(f"i{array.dtype.itemsize}")
        return torch.from_numpy(bits).view(getattr(torch, array.dtype.name))


def _find_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in IN_FOLDER:
        if (path / name).exists():
            return path / name
    names = sorted(entry.name for entry in path.iterdir())
    only = f", only {', '.join(names[:SHOWN_NAMES])}{', ...' if len(names) > SHOWN_NAMES else ''}" * bool(
        names
    )
    advice = what_folder(names) or "name the file that holds the arrays"
    raise UserError(f"{path} has no model.safetensors or pytorch_model.bin{only}: {advice}")


def _read_tree(path: Path) -> tuple[Checkpoint, int]:
    """-> (content of a file or of all parts of an index, bytes of the files)."""
    head = _head(path)
    return _read_parts(path) if head[:1] == b"{" else _read_one(path)


def _read_one(path: Path) -> tuple[Checkpoint, int]:
    check_kind(path)
    head = _head(path)
    is_safetensors = head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27
    read = Checkpoint(read_safetensors(path, METADATA), Counter()) if is_safetensors else read_pth(path)
    return read, path.stat().st_size


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(9)
    except OSError:
        return b""  # check_kind reports the error


def _read_parts(path):
    """Read arrays in several files by the index {"weight_map": {array: file}}."""
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        files = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not an index of arrays: expected JSON with a weight_map") from error
    arrays, size = {}, 0
    for name in files:
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(f"{path} names the part {name!r}: expected files beside it")
        part = path.parent / name
        if not part.exists():
            raise UserError(f"{path.parent} has no {name}, which {path.name} names: fetch all parts")
        read, part_size = _read_one(part)
        tree, size = _entries(read.content), size + part_size
        if not _is_state(tree):
            raise UserError(f"{part} has no arrays: expected the part of a model that {path.name} names")
        arrays |= tree
    missing = sorted(weight_map.keys() - arrays.keys())
    if missing:
        raise UserError(f"{path} names {missing[0]!r}, which is in none of its parts: fetch them again")
    return Checkpoint(arrays, Counter()), size


def _entries(value):
    """The entries of a dict, or of an object like one: of its class nothing is known; None for others."""
    return (
        attributes_of(value) if isinstance(value, StandIn) else value if isinstance(value, dict) else None
    )


def _is_array(name, value):
    is_read = isinstance(value, StoredArray) and value.read is not None
    return isinstance(name, str) and (is_read or isinstance(value, np.ndarray))


def _is_state(tree):
    return isinstance(tree, dict) and any(_is_array(name, value) for name, value in tree.items())


def _find(tree, depth=MAX_DEPTH, seen=None):
    """Return the dotted key of the arrays; "" if no entry of WRAPPERS has any.

    seen: ids of entries that were looked at; they may contain themselves.
    """
    seen = {id(tree)} if seen is None else seen
    for name in WRAPPERS if depth else ():
        inner = _entries(tree.get(name))
        if inner is not None and id(inner) not in seen:
            seen.add(id(inner))
            below = _find(inner, depth - 1, seen)
            if below or _is_state(inner):
                return f"{name}.{below}" if below else name
    return ""


def _check_plain(path, state):
    """Refuse tensors that hold no plain numbers, such as sparse ones, which would count as missing."""
    for name, value in state.items():
        if isinstance(value, StandIn) and value.name.startswith("torch._utils._rebuild_"):
            kind = value.name.removeprefix("torch._utils._rebuild_")
            raise UserError(
                f"{path}: {_shown(name)} is no tensor of plain numbers ({_shown(kind)}): save it after "
                ".to_dense() or .dequantize(), with its values"
            )


def _choice(tree):
    """Return what to type instead."""
    states = [_shown(name) for name in _states(tree)][:SHOWN_NAMES]
    entries = ", ".join(map(_shown, list(tree)[:8])) + (", ..." if len(tree) > 8 else "")
    if states:
        return f"choose --key= from: {', '.join(states)}"
    return f"expected named arrays, but it holds {entries or 'nothing'}"


def _states(tree, prefix="", seen=frozenset()):
    """Yield the dotted keys of entries with arrays, also of entries in entries."""
    for name, value in tree.items():
        inner = _entries(value)
        if inner is None or not isinstance(name, str) or id(inner) in seen or len(seen) > MAX_DEPTH:
            continue
        if _is_state(inner):
            yield prefix + name
        else:
            yield from _states(inner, f"{prefix}{name}.", seen | {id(tree)})


def _without_infixes(name):
    for infix in INFIXES:
        name = name.replace(infix, "")
    return name


def _kind(value):
    if isinstance(value, StoredArray):
        return "a single array"
    return (
        f"an object of {_shown(value.name)}" if isinstance(value, StandIn) else f"a {type(value).__name__}"
    )


def _entry(name, value):
    if isinstance(value, StandIn):
        return f"{_shown(name)} ({_shown(value.name)})"
    size = len(value) if isinstance(value, Mapping | list | tuple) else None
    return _shown(name) if size is None else f"{_shown(name)} ({count(size, 'entry', 'entries')})"


def _shown(name):
    """The name of an entry or class for a message, on one line."""
    text = name[:SHOWN_LENGTH] if isinstance(name, str) else f"a key of {type(name).__name__}"
    text = str(name) if isinstance(name, int) and abs(name) < 2**64 else text
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _describe_unread(unread: Counter[str]) -> str:
    # A class of arrays is named beside each array.
    others = (name for name in unread if not name.startswith("builtins.") and name != "numpy.ndarray")
    names = {name: max(unread[name], 1) for name in others}
    if not names:
        return ""
    shown = ", ".join(map(_shown, list(names)[:SHOWN_NAMES])) + (
        ", ..." if len(names) > SHOWN_NAMES else ""
    )
    return f"{count(sum(names.values()), 'object')} of {shown}"


def _shared_prefix(names):
    """Return the longest sequence of PREFIXES that all names start with."""
    prefix = ""
    while longer := [prefix + more for more in PREFIXES if all(n.startswith(prefix + more) for n in names)]:
        prefix = longer[0]
    return prefix
