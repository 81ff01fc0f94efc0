"""Inputs and expected numbers of the published PyTorch code (FastMIM d4eea0d), run in float32 on a CPU.

`tests/data/published/` holds outputs only. Images and weights are functions of a seed and a name, drawn
from NumPy's frozen RandomState streams, so that both codes get the same ones.
"""

import json
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

FOLDER = Path(__file__).parents[1] / "data" / "published"


def load(name):
    """Return (the dict of NAME.json, the arrays of NAME.npz), None for a missing file."""
    text, arrays = FOLDER / f"{name}.json", FOLDER / f"{name}.npz"
    return (
        json.loads(text.read_text()) if text.exists() else None,
        dict(np.load(arrays)) if arrays.exists() else None,
    )


def stream(seed, name):
    """Return the random stream of a seed and a name."""
    return np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()) & 0x7FFFFFFF)


def images(seed, count, height, width):
    """Return (count, height, width, 3) float32 images: four plane waves per channel, and noise."""
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
    """Normalise uint8 pixels to float32 as the published loaders do."""
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    std = np.array([0.229, 0.224, 0.225], np.float32)
    return ((pixels.astype(np.float32) / np.float32(255)) - mean) / std


def weights(cases, name):
    """Return {published name: float32 array} of a case; "hog_norm1" has entries that a case omits."""
    kinds = {**cases.get("hog_norm1", {}).get("weights", {}), **cases[name]["weights"]}
    seed = cases[name]["seed"]
    return {name: weight(seed, name, *kind) for name, kind in kinds.items() if kind}


def weight(seed, name, shape, kind):
    """Draw normal numbers of a scale that suits the kind of parameter."""
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


class Deviations(NamedTuple):
    """Relative differences to the published float32 code, the largest of each kind.

    gradient: of a parameter's gradient norm, to the norm itself plus SMALL_SHARE of the total norm, so that
      gradients that cancel exactly (a bias before a batch norm) may be rounding noise.
    """

    loss: float
    gradient: float
    total_gradient: float


SMALL_SHARE = 1e-3
LIMITS = Deviations(loss=1e-6, gradient=6e-5, total_gradient=4e-6)


def deviations(case, out, grads):
    """Return the Deviations of an Output and of gradients, by published names, from a case."""
    norms = {name: norm for name, norm in case["grad_norms"]["param"].items() if norm is not None}
    assert set(norms) == set(grads)
    total = case["grad_norms"]["total"]
    found = np.sqrt(sum(np.square(grad).sum() for grad in grads.values()))
    return Deviations(
        abs(float(out.loss) - case["loss"]) / case["loss"],
        max(
            abs(np.linalg.norm(grads[name]) - norm) / (norm + SMALL_SHARE * total)
            for name, norm in norms.items()
        ),
        abs(found - total) / total,
    )


def assert_equal(case, out, grads):
    """Check an Output's loss and the gradients, by published names, against those of a case.

    LIMITS are about three times the largest deviation over all cases: 2.3e-7 of the loss (SimMIM's Swin),
    1.9e-5 of a gradient (CMT) and 1.3e-6 of the total gradient (SimMIM's Swin).
    """
    for kind, deviation in deviations(case, out, grads)._asdict().items():
        limit = getattr(LIMITS, kind)
        assert deviation < limit, f"{kind} is {deviation:.2g} from the published one, limit {limit:.0e}"
