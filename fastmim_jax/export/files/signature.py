"""SHA-256 sums of the arrays in a file, saved beside them: by which convert knows a file that it wrote."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors

from fastmim_jax.errors import UserError
from fastmim_jax.export.torch_file.arrays import StoredArray
from fastmim_jax.export.torch_file.reader import read_pth

SIGNATURE = "fastmim_jax_sha256"  # entry of a file, beside the arrays


def sign(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a SHA-256 sum of names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}\t{array.dtype.name}\t{np.shape(arrays[name])}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def is_signed(path: str | Path) -> bool:
    """Return whether a file of arrays has a sum, and its arrays are as they were written."""
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="np") as file:
                signature = (file.metadata() or {}).get(SIGNATURE)
                return bool(signature) and signature == sign({k: file.get_tensor(k) for k in file.keys()})
        content = read_pth(path).content
        if not isinstance(content, dict) or SIGNATURE not in content:
            return False
        arrays = next(value for value in content.values() if isinstance(value, dict))
        read = {k: x.read() for k, x in arrays.items() if isinstance(x, StoredArray) and x.read}
        return len(read) == len(arrays) and content[SIGNATURE] == sign(read)
    except (UserError, safetensors.SafetensorError, OSError, ValueError, StopIteration, AttributeError):
        return False  # another kind of file
