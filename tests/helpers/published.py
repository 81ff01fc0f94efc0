"""Inputs and expected numbers of the published PyTorch code (FastMIM d4eea0d), run in float32 on a CPU.

`tests/data/published/` holds outputs only. Images and weights are functions of a seed and a name,
drawn from NumPy's frozen RandomState streams, so that both sides could be given the same ones.
"""

import json
import zlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "data" / "published"


def load(name):
    """-> (dict from NAME.json, arrays of NAME.npz); either may be missing (None)."""
    text, arrays = FOLDER / f"{name}.json", FOLDER / f"{name}.npz"
    return (
        json.loads(text.read_text()) if text.exists() else None,
        dict(np.load(arrays)) if arrays.exists() else None,
    )


def stream(seed, name):
    return np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()) & 0x7FFFFFFF)


def images(seed, count, height, width):
    """(count, height, width, 3) float32: four plane waves per channel, and noise."""
    random = stream(seed, f"images-{count}-{height}-{width}")
    y, x = np.meshgrid(np.arange(height) / height, np.arange(width) / width, indexing="ij")
    result = np.zeros((count, height, width, 3))
    for picture in range(count):
        for channel in range(3):
            for _ in range(4):
                down, across = random.uniform(-6, 6, 2)
                strength = random.uniform(0.2, 0.8)
                wave = np.sin(2 * np.pi * (down * y + across * x) + random.uniform(0, 6.28))
                result[picture, :, :, channel] += strength * wave
    return (result + 0.3 * random.standard_normal(result.shape)).astype(np.float32)


def imagenet_normalized(pixels):
    """uint8 -> float32 as the published loaders do it."""
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    std = np.array([0.229, 0.224, 0.225], np.float32)
    return ((pixels.astype(np.float32) / np.float32(255)) - mean) / std


def weights(cases, name):
    """{published name: float32 array} of a case; what its entry leaves out is as in "hog_norm1"."""
    kinds = {**cases.get("hog_norm1", {}).get("weights", {}), **cases[name]["weights"]}
    seed = cases[name]["seed"]
    return {name: weight(seed, name, *kind) for name, kind in kinds.items() if kind}


def weight(seed, name, shape, kind):
    """Normal numbers of a scale that suits the kind of parameter."""
    random = stream(seed, name)
    if kind == "bn_var":
        return (0.5 + random.random_sample(shape)).astype(np.float32)
    x = random.standard_normal(tuple(shape))
    if kind == "weight":
        x = x / np.sqrt(np.prod(shape[1:]))
    elif kind == "norm_w":
        x = 1 + 0.1 * x
    elif kind == "gamma":
        x = 0.1 + 0.02 * x
    else:
        x = {"norm_b": 0.1, "bn_mean": 0.1, "bias": 0.05, "table": 0.2}[kind] * x
    return np.asarray(x, np.float32)


def assert_equal(case, out, grads):
    """An Output's loss and the gradients, by published names, against those of a case.

    1e-5 and 1e-3 are some 50 times what float32 differs by from float64 in the published code.
    """
    assert abs(float(out.loss) - case["loss"]) < 1e-5 * case["loss"]
    norms = {name: norm for name, norm in case["grad_norms"]["param"].items() if norm is not None}
    assert set(norms) == set(grads)
    total = case["grad_norms"]["total"]
    for name, norm in norms.items():
        # What is zero on paper (a bias before a batch norm, say) is rounding noise on both sides.
        assert abs(np.linalg.norm(grads[name]) - norm) < 1e-3 * norm + 1e-6 * total, name
    found = np.sqrt(sum(np.square(grad).sum() for grad in grads.values()))
    assert abs(found - total) < 1e-3 * total
