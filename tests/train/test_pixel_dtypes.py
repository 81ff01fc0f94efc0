"""The same images as uint8, uint16 and float32: a step of every method has the same loss."""

import json

import numpy as np
import pytest

from fastmim_jax.train.pretrain import pretrain
from helpers import small
from helpers.sweeps import sweep

pytestmark = pytest.mark.usefixtures("one_device")
WHITE = {
    "uint8": (np.uint8(1), 255),
    "uint16": (np.uint16(257), 65535),
    "float32": (np.float32(1 / 255), 1),
}
METHODS = {
    "fastmim": lambda config: config,
    "mae": small.mae,
    "simmim": small.simmim,
    "mixmim": small.mixmim,
}


def write(folder, dtype, size):
    """16 images of the size of a crop, which nothing rounds on the way."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(16):
        pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
        np.save(folder / f"{number:02}.npy", pixels.astype(dtype) * WHITE[dtype][0])
    return folder


def first_loss(method, dtype, folder):
    config = METHODS[method](small.config(folder / dtype, steps=1))
    size = config.data.image_size[0]
    write(folder / dtype, dtype, size)
    config.method.backbone.depth = 1 if method != "mixmim" else None
    config.data.update(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), eval_split="")
    config.data.value_range = () if dtype == "uint8" else (0, WHITE[dtype][1])
    lines = []
    pretrain(config, folder / f"run of {dtype}", log=lines.append)
    assert any(f"the network gets {dtype}" in line for line in lines)
    metrics = (folder / f"run of {dtype}" / "metrics.jsonl").read_text().splitlines()
    return json.loads(metrics[0])["loss"]


CASES = [("mae", "float32"), *((method, "uint16") for method in METHODS)]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "dtype"), sweep(CASES, [("mae", "uint16")]))
def test_a_step_has_the_loss_of_8_bits(method, dtype, tmp_path):
    losses = [first_loss(method, kind, tmp_path) for kind in ("uint8", dtype)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
