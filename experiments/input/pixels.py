"""Differences of every path from Pillow's crop of the same stored image, in pixels and in HOG."""

import io

import jax.numpy as jnp
import numpy as np
from PIL import Image

from fastmim_jax.data.augment import random_crop_box, resize_crop
from fastmim_jax.data.decode import decode
from fastmim_jax.data.device import planes_to_rgb
from fastmim_jax.data.planes import crop_shape, resize_crop_planes
from fastmim_jax.data.records.yuv import to_rgb
from fastmim_jax.mim.targets import TARGETS

CROPS = 4  # of every image
BOUNDS = {"originals": 50, "jpeg": 50, "raw": 50, "yuv420 against jpeg": 40}  # dB


def differences(sources, size):
    """Return {comparison: {"psnr", "psnr_p5", "hog_cosine", "bound"}}, means over crops of all images."""
    pairs, rng = {name: [] for name in BOUNDS}, np.random.default_rng(0)
    for index in range(len(sources["raw"])):
        stored = {kind: source[index] for kind, source in sources.items()}
        for _ in range(CROPS):
            for kind in ("originals", "jpeg", "raw"):
                image = decode(stored[kind])
                box = random_crop_box(rng, *image.shape[:2])
                pairs[kind].append((resize_crop(image, box, size), _pillow(stored[kind], box, size)))
            box = random_crop_box(rng, *stored["yuv420"].shape[:2])
            planes = resize_crop_planes(
                stored["yuv420"], box, np.empty(crop_shape("yuv420", size, 3), np.uint8)
            )
            ours = np.asarray(planes_to_rgb(planes[None]))[0]
            pairs["yuv420 against jpeg"].append((ours, resize_crop(decode(stored["jpeg"]), box, size)))
    return {name: {**_compare(pairs[name]), "bound": BOUNDS[name]} for name in pairs}


def _pillow(stored, box, size):
    """Return the published crop: PIL decodes, crops and resizes."""
    left, top, width, height = box
    if isinstance(stored, bytes):
        image = Image.open(io.BytesIO(stored)).convert("RGB")
    else:
        image = Image.fromarray(stored if isinstance(stored, np.ndarray) else to_rgb(stored))
    crop = image.crop((left, top, left + width, top + height))
    return np.asarray(crop.resize(size[::-1], Image.Resampling.BICUBIC))


def _compare(pairs):
    ours, theirs = (np.stack(images).astype(np.float32) for images in zip(*pairs, strict=True))
    error = np.maximum(((ours - theirs) ** 2).mean(axis=(1, 2, 3)), 1e-9)
    psnr = 10 * np.log10(255**2 / error)
    hog = TARGETS["hog"](normalize=True)
    first, second = (np.asarray(hog(jnp.asarray(x / 255), 16)) for x in (ours, theirs))
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    cosine = ((first * second).sum(-1) / np.maximum(norms, 1e-9)).mean()
    return {
        "psnr": float(psnr.mean()),
        "psnr_p5": float(np.percentile(psnr, 5)),
        "hog_cosine": float(cosine),
    }
