"""Read safetensors files, also arrays of 8 bits, whose dtypes NumPy lacks."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from fastmim_jax.errors import UserError

FLOAT8 = {
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}


def read_safetensors(path: Path, note: str) -> dict[str, Any]:
    """Return {name: array} of a safetensors file; note: name of a text in its metadata that is added.

    Raises:
      UserError: the file is damaged, or has numbers of fewer than 8 bits.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(note)
            arrays = {name: _read(path, file, name) for name in file.keys()}
            return arrays | ({note: text} if text else {})
    except (AttributeError, TypeError) as error:  # a dtype that NumPy lacks
        raise UserError(f"{path} cannot be read ({error}): expected arrays of 8 bits or more") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is cut short or damaged ({error}): fetch the safetensors file again"
        ) from error


def _read(path: Path, file: Any, name: str) -> np.ndarray:
    try:
        return file.get_tensor(name)
    except (AttributeError, TypeError):
        array = _read_float8(path, name)
        if array is None:
            raise
        return array


def _read_float8(path: Path, name: str) -> np.ndarray | None:
    """Return an array of FLOAT8 of a file that safetensors has checked; None for other dtypes."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
        if entry["dtype"] not in FLOAT8:
            return None
        start, end = entry["data_offsets"]
        file.seek(8 + length + start)
        data = file.read(end - start)
    return np.frombuffer(data, FLOAT8[entry["dtype"]]).reshape(entry["shape"])
