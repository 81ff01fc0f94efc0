"""Pixels of image files by Pillow, tifffile and NumPy directly: slow, simple, and without fastmim_jax."""

import io
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image, ImageOps

MAX_PIXELS = 10_000
FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM")
LUMA = np.array([0.299, 0.587, 0.114])
ORIENTED = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation -> Pillow's transposition


class Broken(Exception):
    """No image."""


class Refused(Exception):
    """A data set for which the user has to type something else."""


class Stored(NamedTuple):
    """An image as it is stored.

    values: (H, W, C). depth: "8", "deep" (colours of 16 bits), "gray png" (16 bits) or "wide".
    nodata: of its file, or None.
    """

    values: np.ndarray
    depth: str
    nodata: float | None = None


class Values(NamedTuple):
    """The meaning of the values of a data set. low, high: None for 8 bits."""

    dtype: str
    low: float | None = None
    high: float | None = None


class Pixels(NamedTuple):
    """exact: (H, W, channels) float64 before rounding. counts: values, below, above, missing, or None.

    allowed: difference by rounding: twice where colours become gray.
    """

    exact: np.ndarray
    counts: tuple | None
    allowed: float


def stored(data, channels, header_only=False):
    """The image in the bytes of a file; Broken if there is none.

    channels: of the model: colours become gray, or are blended with white, only for 1 and 3.
    header_only: of 8-bit images only their depth is asked for.
    """
    if not data:
        raise Broken("empty")
    try:
        if data[:6] == b"\x93NUMPY":
            return _checked(_npy(data))
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            found = _tiff(data)
            if found is not None:
                return _checked(found)
        found = _pillow(data, channels, header_only)
        return found if header_only and found.depth in ("8", "deep") else _checked(found)
    except Broken:
        raise
    except Exception as error:
        raise Broken(str(error)) from error


def _checked(image):
    if image.values.shape[0] * image.values.shape[1] > MAX_PIXELS:
        raise Broken("too large")
    return image


def _npy(data):
    array = np.load(io.BytesIO(data))
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "iuf":
        raise Broken("no image")
    array = array.astype(array.dtype.newbyteorder("="))
    return Stored(array.reshape(*array.shape[:2], -1), "8" if array.dtype == np.uint8 else "wide")


def _tiff(data):
    """None for compressed ones, which tifffile reads only with imagecodecs."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            if page.compression != 1:
                return None
            if page.dtype is None:
                raise Broken("no dtype")
            values = page.asarray()
            if page.axes == "YX":
                values = values[..., None]
            if page.axes == "SYX":
                values = values.transpose(1, 2, 0)
            tags = {tag.code: tag.value for tag in page.tags}
    except (tifffile.TiffFileError, IndexError):
        return None
    planes = [Image.fromarray(np.arange(values[..., 0].size, dtype=np.int32).reshape(values.shape[:2]))]
    if tags.get(274, 1) in ORIENTED:
        planes = [planes[0].transpose(ORIENTED[tags[274]])]
    places = np.asarray(planes[0])
    values = values.reshape(-1, values.shape[2])[places]
    nodata = float(tags[42113]) if 42113 in tags else None
    return Stored(values, "8" if values.dtype == np.uint8 else "wide", nodata)


def _pillow(data, channels, header_only):
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    depth = "8"
    if data[:4] == b"\x89PNG" and data[24] == 16:
        depth = "gray png" if data[25] == 0 else "deep"
    if data[:2] == b"P6" and data.split()[3] == b"65535":
        depth = "deep"
    if image.mode[0] in "IF":
        image.load()
        depth = depth if depth == "gray png" else "wide"
        values = np.asarray(ImageOps.exif_transpose(image))
        if image.format in ("PNG", "PPM"):  # Pillow scales every PGM of more than 8 bits to 16
            values = values.astype(np.uint16)
        return Stored(values.astype(values.dtype.newbyteorder("="))[..., None], depth)
    if header_only:
        return Stored(np.zeros((1, 1, channels), np.uint8), depth)
    if data[:2] == b"\xff\xd8" and channels == 1 and image.mode == "RGB":
        image.draft("L", None)  # Y of the file itself
    image.load()
    image = ImageOps.exif_transpose(image)
    if channels not in (1, 3):
        return Stored(np.asarray(image).reshape(image.height, image.width, -1), depth)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image = image.convert("L" if channels == 1 else "RGB")
    return Stored(np.asarray(image).reshape(image.height, image.width, channels), depth)


def fits(image, channels):
    own = image.values.shape[2]
    return own == channels or (own, channels) in ((1, 3), (3, 1))


def decide(files, channels, declared, nodata):
    """The Values of a data set of files; Refused where its images cannot mean the same."""
    images = []
    for data in files:
        try:
            image = stored(data, channels, header_only=True)
        except Broken:
            if data[:2] == b"\xff\xd8":  # a cut JPEG still tells that it has 8 bits
                images.append(Stored(None, "8"))
            continue
        if image.depth in ("8", "deep") or fits(image, channels):
            images.append(image)
    eight = [image for image in images if image.depth in ("8", "deep")]
    wide = [image for image in images if image.depth not in ("8", "deep")]
    if not images:
        return Values("uint8")
    deep = sum(image.depth == "deep" for image in images)
    mostly_8 = len(eight) > len(images) / 2
    one_white = declared == (0, 65535)
    if deep > len(images) / 2:
        raise Refused("only half of the bits can be read")
    rare = [image for image in wide if image.depth == "wide"] if mostly_8 else eight
    if not one_white and len(rare) >= len(images) / 4:
        raise Refused("8 bits beside others")
    if mostly_8 and not (one_white and wide):
        return Values("uint8")
    low, high = declared or _measure(wide, nodata, channels)
    fractions = any(image.values.dtype.kind == "f" for image in wide)
    return Values("float32" if fractions or high - low >= 65536 else "uint16", low, high)


def _measure(images, nodata, channels):
    """All values, or from 0.1 % to 99.9 % of them where outliers more than double the range."""
    planes = [[] for _ in range(channels)]
    for image in images:
        missing = _missing(image, nodata)
        own = image.values.shape[2]
        for band in range(own):
            values = image.values[..., band][~missing[..., band]].astype(np.float64)
            for channel in range(channels) if own != channels else [band]:
                planes[channel].append(values)
    planes = [np.concatenate(plane) for plane in planes]
    planes = [plane for plane in planes if len(plane)]
    if not planes:
        return 0.0, 1.0
    full = min(plane.min() for plane in planes), max(plane.max() for plane in planes)
    robust = [[np.percentile(plane, p) for plane in planes] for p in (0.1, 99.9)]
    low, high = min(robust[0]), max(robust[1])
    if full[1] - full[0] <= 2 * (high - low):
        low, high = full
    return (low, high) if low < high else (low, low + 1)


def _missing(image, nodata):
    values = image.values.astype(np.float64)
    found = ~np.isfinite(values)
    for value in (*nodata, image.nodata):
        if value is not None:
            found |= values == value
    return found


def pixels(data, channels, values, nodata):
    """Pixels of a file in a data set; Broken if it cannot be one of its images."""
    image = stored(data, channels)
    if not fits(image, channels) or image.values.size == 0:
        raise Broken("other channels")
    eight, white = image.depth in ("8", "deep"), {"uint8": 255, "uint16": 65535, "float32": 1}[values.dtype]
    one_white = (values.low, values.high) == (0, 65535)
    if values.low is None:
        if image.depth == "wide":
            raise Broken("too many bits")
        exact = image.values.astype(np.float64) if eight else (image.values >> 8).astype(np.float64)
        return Pixels(_to_channels(exact, channels, "uint8"), None, 0.001)
    if image.depth == "deep" or (eight and not one_white):
        raise Broken("other bits")
    missing, numbers = _missing(image, nodata), image.values.astype(np.float64)
    low, high = (0, 255) if eight else (values.low, values.high)
    with np.errstate(invalid="ignore"):
        exact = np.where(missing, 0, ((numbers - low) / (high - low) * white).clip(0, white))
        below, above = (numbers < low) & ~missing, (numbers > high) & ~missing
    counts = None if eight else (numbers.size, below.sum(), above.sum(), missing.sum())
    allowed = {"uint16": 0.51, "float32": 2e-6}[values.dtype]
    if image.values.shape[2] > channels:
        allowed = white / 510 if eight else 2.1 * allowed
    return Pixels(_to_channels(exact, channels, values.dtype), counts, allowed)


def _to_channels(exact, channels, dtype):
    own = exact.shape[2]
    if own == channels:
        return exact
    if channels == 3:
        return np.repeat(exact, 3, axis=2)
    if dtype == "uint8":
        return np.asarray(Image.fromarray(exact.astype(np.uint8)).convert("L"), np.float64)[..., None]
    return ((exact if dtype == "float32" else np.rint(exact)) @ LUMA)[..., None]


def resize(exact, box, size, white):
    """Bicubic and antialiased, (size, size, C), and whether no value on the way is outside of the range."""
    left, top, width, height = box
    columns = _weights(exact.shape[1], left, width, size)
    rows = _weights(exact.shape[0], top, height, size)
    across = np.einsum("yxc,ox->yoc", exact, columns)
    down = np.einsum("yxc,oy->oxc", exact, rows)
    both = np.einsum("yxc,oy->oxc", across, rows)
    inside = all(x.min() >= 0 and x.max() <= white for x in (across, down, both))
    return both, inside


def _weights(length, start, extent, size):
    scale = extent / size
    width = max(scale, 1)
    table = np.zeros((size, length))
    for out in range(size):
        center = start + (out + 0.5) * scale
        first, last = max(int(center - 2 * width + 0.5), 0), min(int(center + 2 * width + 0.5), length)
        for x in range(first, last):
            t = abs((x + 0.5 - center) / width)
            table[out, x] = (
                (1.5 * t - 2.5) * t**2 + 1
                if t < 1
                else max(t < 2, 0) * (((-0.5 * t + 2.5) * t - 4) * t + 2)
            )
        table[out] /= table[out].sum()
    return table
