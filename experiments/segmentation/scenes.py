"""Scenes with masks that are known by construction: regions of one photo pasted into another.

    python experiments/segmentation/scenes.py DIR

The photos ship with scikit-image; a class is a photo. Training scenes take pixels from the left 70 % of
each photo, evaluation scenes from the right 30 %, so that they share none. Every region has its own
brightness, contrast and tint, drawn at random: the colour of a pixel says little about its class, the
structure around it does. These are no photos that people
labelled: they measure whether structure is learned.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from skimage import data as bundled

PHOTOS = ("brick", "grass", "gravel", "chelsea", "coffee", "motorcycle_left", "ihc", "retina")
FOLDER = Path(bundled.__file__).parent
TRAIN_SHARE = 0.7
HEIGHT, WIDTH = 96, 128
COUNTS = {"train": 200, "val": 60}
UNLABELLED = 255  # a seam of two pixels around each region, as annotators leave one


def photos(split):
    """-> [(H, W, 3) float] the part of each photo that a split may show."""
    found = []
    for name in PHOTOS:
        path = next(FOLDER.glob(f"{name}.*"))
        image = Image.open(path).convert("RGB")
        image.thumbnail((400, 400))
        pixels, border = np.asarray(image, np.float32), int(TRAIN_SHARE * image.width)
        found.append(pixels[:, :border] if split == "train" else pixels[:, border:])
    return found


def tinted_crop(photo, rng):
    """-> (HEIGHT, WIDTH, 3): a part of a photo, of any size, mirrored, with other brightness and tint."""
    height, width = photo.shape[:2]
    share = rng.uniform(0.45, 1.0) * min(1.0, width / height * HEIGHT / WIDTH)
    rows, columns = max(16, int(height * share)), max(16, min(width, int(height * share * WIDTH / HEIGHT)))
    top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
    part = photo[top : top + rows, left : left + columns][:, :: rng.choice([-1, 1])]
    crop = np.asarray(
        Image.fromarray(part.astype(np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    )
    normal = (crop - crop.mean((0, 1))) / (crop.std((0, 1)) + 8)
    return rng.uniform(90, 160, 3) + rng.uniform(25, 50) * normal


def region(rng):
    """-> (HEIGHT, WIDTH) bool: a polygon with rounded corners."""
    corners = int(rng.integers(3, 8))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = rng.uniform(18, 44, corners)
    middle = rng.uniform((25, 20), (WIDTH - 25, HEIGHT - 20))
    points = [
        (middle[0] + r * np.cos(a), middle[1] + r * np.sin(a)) for r, a in zip(radii, angles, strict=True)
    ]
    canvas = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(canvas).polygon(points, fill=255)
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(4))) > 127


def scene(sources, rng):
    """-> (HEIGHT, WIDTH, 3) uint8 image and (HEIGHT, WIDTH) uint8 mask."""
    first, *others = rng.permutation(len(sources))[: int(rng.integers(3, 5))]
    image, mask = tinted_crop(sources[first], rng), np.full((HEIGHT, WIDTH), first, np.uint8)
    for label in others:
        inside = region(rng)
        image = np.where(inside[..., None], tinted_crop(sources[label], rng), image)
        grown = np.asarray(Image.fromarray(inside).convert("L").filter(ImageFilter.MaxFilter(3))) > 0
        mask[grown] = UNLABELLED
        mask[inside] = label
    return image.clip(0, 255).round().astype(np.uint8), mask


def write_scenes(folder):
    """Write images/, masks/ and classes.txt; the same files on every machine."""
    folder = Path(folder)
    for number, (split, count) in enumerate(COUNTS.items()):
        sources = photos(split)
        for index in range(count):
            pair = scene(sources, np.random.default_rng([number, index]))
            for kind, array in zip(("images", "masks"), pair, strict=True):
                path = folder / kind / split / f"{index:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in PHOTOS))
    return folder


if __name__ == "__main__":
    write_scenes(sys.argv[1])
