"""Safetensors files with arrays of 8 bits."""

import json

import ml_dtypes
import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.files.safetensors_file import FLOAT8, read_safetensors


def write(path, kind, bits):
    header = {"w": {"dtype": kind, "shape": [2, 3], "data_offsets": [0, 6 * bits // 8]}}
    text = json.dumps({**header, "__metadata__": {"note": "a"}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(range(40, 40 + 6 * bits // 8)))
    return path


@pytest.mark.parametrize("kind", FLOAT8)
def test_arrays_of_8_bits(tmp_path, kind):
    found = read_safetensors(write(tmp_path / "x", kind, 8), "note")
    np.testing.assert_array_equal(found["w"].view(np.uint8).ravel(), range(40, 46))
    assert found["w"].dtype == FLOAT8[kind] and found["note"] == "a"


def test_values_of_8_bits(tmp_path):
    found = read_safetensors(write(tmp_path / "x", "F8_E4M3", 8), "")["w"]
    assert found.dtype == ml_dtypes.float8_e4m3fn
    assert found.astype(np.float32).ravel()[0] == 2 ** ((40 >> 3) - 7) * (1 + (40 & 7) / 8)


def test_fewer_bits_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read|damaged"):
        read_safetensors(write(tmp_path / "x", "F4", 4), "")
