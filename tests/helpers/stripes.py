"""Images with masks whose classes differ in the direction of stripes, and not in colour."""

import numpy as np
from PIL import Image

SQUARE = 24  # side of a striped square in pixels


def write_stripes(folder, **splits):
    """images/ and masks/ with a square each, of horizontal (class 1) or vertical (2) stripes -> the folder.

    Stripes and the noise of the background (class 0) have the same mean; the first row has no label.

    splits: {"train": number of images, ...}; by default 8 and 5.
    """
    for split, count in (splits or {"train": 8, "val": 5}).items():
        rng = np.random.default_rng(len(split))
        for index in range(count):
            image, mask = draw_stripes(rng, 1 + index % 2)
            for kind, array in (("images", image), ("masks", mask)):
                path = folder / kind / split / f"{index:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return folder


def draw_stripes(rng, label):
    """-> (H, W, 3) uint8 image and (H, W) uint8 mask, 255 where there is no label."""
    height, width = rng.integers(36, 56, 2)
    image = rng.integers(60, 200, (height, width, 1), dtype=np.uint8).repeat(3, -1)
    mask = np.zeros((height, width), np.uint8)
    mask[0] = 255
    top, left = rng.integers(1, height - SQUARE + 1), rng.integers(0, width - SQUARE + 1)
    waves = np.where(np.indices((SQUARE, SQUARE))[label - 1] // 3 % 2, 195, 65).astype(np.uint8)
    image[top : top + SQUARE, left : left + SQUARE] = waves[..., None]
    mask[top : top + SQUARE, left : left + SQUARE] = label
    return image, mask
