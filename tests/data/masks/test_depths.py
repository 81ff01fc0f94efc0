"""Images with depths."""

import numpy as np
import pytest

from fastmim_jax.data.masks import IGNORE, MaskError
from fastmim_jax.data.masks.depths import depth_evaluation_split, open_depths
from fastmim_jax.errors import UserError
from helpers.mask_files import save, write_folder


def test_units_and_unknown_depths(tmp_path):
    write_folder(tmp_path, 1)
    values = np.full((24, 32), 1500, np.uint16)
    values[0] = 0
    save(tmp_path / "depths" / "00.png", values)
    mask = open_depths(tmp_path).read(0).mask
    assert mask[1, 0] == 15_000 and (mask[0] == IGNORE).all()  # steps of 0.1 mm
    assert open_depths(tmp_path, unit=1 / 256).read(0).mask[1, 0] == round(1500 / 256 * 10_000)
    (tmp_path / "depths" / "00.png").unlink()
    metres = np.full((24, 32), 2.5, np.float32)
    metres[0] = np.nan
    np.save(tmp_path / "depths" / "00.npy", metres)
    mask = open_depths(tmp_path).read(0).mask
    assert mask[1, 0] == 25_000 and (mask[0] == IGNORE).all()
    assert depth_evaluation_split(tmp_path) is None


def test_files_that_hold_no_depths(tmp_path):
    write_folder(tmp_path, 1)
    with pytest.raises(UserError, match="images/ and depths/"):
        open_depths(tmp_path)
    save(tmp_path / "depths" / "00.png", np.zeros((24, 32), np.uint8))
    with pytest.raises(MaskError, match="8 bits or colours, expected 16 bits or floats"):
        open_depths(tmp_path).read(0)
    with pytest.raises(UserError, match="depth unit of 0"):
        open_depths(tmp_path, unit=0)
    (tmp_path / "depths" / "00.png").write_bytes(b"none")
    with pytest.raises(MaskError, match="cannot be read"):
        open_depths(tmp_path).read(0)
