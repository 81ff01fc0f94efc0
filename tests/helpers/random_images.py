"""Small random images in every kind of file, whole and broken; all are functions of a random generator."""

import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image

# Values of an image of a style: 8-bit colours, or measurements of other dtypes.
WIDE_DTYPES = {
    "uint16": np.uint16,
    "uint12": np.uint16,
    "uint16 big": np.dtype(">u2"),
    "int16": np.int16,
    "int32": np.int32,
    "uint32": np.uint32,
    "float32": np.float32,
    "float16": np.float16,
    "float64": np.float64,
}
# Lowest and highest value of an image, as they are measured in practice.
RANGES = {
    "uint16": (0, 65535),
    "uint12": (0, 4095),
    "uint16 big": (300, 9000),
    "int16": (-1024, 3071),  # Hounsfield units
    "int32": (-100_000, 100_000),
    "uint32": (5, 3_000_000),
    "float32": (-35.0, 5.0),  # decibels
    "float16": (0.0, 1.5),  # reflectance
    "float64": (-1.0, 1.0),
}
NODATA = {"float32": -9999.0, "float64": -9999.0, "int16": -32768.0, "uint16": 0.0}
EIGHT_BITS = ("png", "jpeg", "tiff", "npy", "gif", "bmp", "webp", "ppm")
BREAKS = ("truncated", "empty", "html", "noise", "header")
EXTENSIONS = {"jpeg": "jpg", "tiff": "tif", "pillow": "tiff"}
STYLES = ("8 bits",) * 8 + tuple(RANGES)


class Style:
    """The properties that all images of a data set share."""

    def __init__(self, rng):
        self.rng = rng
        self.name = str(rng.choice(STYLES))
        self.eight_bits = self.name == "8 bits"
        self.channels = int(rng.choice([3, 3, 3, 1, 1, 4, 5, 13]))
        self.size = int(rng.integers(6, 14))
        self.broken = float(rng.choice([0, 0, 0.15, 0.4]))
        self.other_sizes = float(rng.choice([0, 0.3]))
        self.dirty = bool(rng.random() < 0.3)
        self.odd_depths = float(rng.choice([0, 0, 0, 0.12, 0.4]))
        self.value_range, self.nodata = (), ()
        if not self.eight_bits and rng.random() < 0.4:
            low, high = RANGES[self.name]
            third = (high - low) / 3
            ranges = [(low, high), (low + third, high), (low - third, high + third), (0, 65535)]
            self.value_range = tuple(map(float, ranges[int(rng.integers(4))]))
        if self.name in NODATA and self.dirty and rng.random() < 0.6:
            self.nodata = (NODATA[self.name],)
        self.kinds = [str(x) for x in rng.choice(self._possible_kinds(), 3)]

    def _possible_kinds(self):
        if self.eight_bits:
            return (
                EIGHT_BITS if self.channels in (1, 3) else ("npy", "tiff", *("png",) * (self.channels == 4))
            )
        gray = self.channels in (1, 3) and self.name in ("uint16", "uint12")
        one_band = self.channels in (1, 3) and self.name in ("int32", "float32")
        return ("npy", "tiff", "tiff", "png", "pgm") if gray else ("npy", "tiff", *("pillow",) * one_band)

    def image(self):
        """(bytes of a file, its extension)."""
        rng, odd = self.rng, self.rng.random() < self.odd_depths
        height = width = self.size
        if rng.random() < self.other_sizes:
            height, width = map(int, rng.integers(5, 20, 2))
        kind, deep = str(rng.choice(self.kinds)), False
        if self.eight_bits == odd:  # values of more than 8 bits
            name = str(rng.choice(tuple(RANGES))) if self.eight_bits else self.name
            deep = self.channels == 3 and rng.random() < 0.1
            if self.eight_bits:
                kind = str(rng.choice(("npy", "tiff", "png") if name == "uint16" else ("npy", "tiff")))
            one_band = kind in ("png", "pgm", "pillow") or (self.channels == 3 and rng.random() < 0.2)
            channels = 1 if one_band else self.channels
            if self.channels == 1 and kind in ("npy", "tiff") and rng.random() < 0.15:
                channels = 3
            if rng.random() < 0.05 and kind in ("npy", "tiff"):
                channels += 1
            values = wide_values(rng, name, height, width, channels, self.dirty)
            nodata = NODATA.get(name) if self.dirty and rng.random() < 0.5 else None
            data = encode_wide(rng, kind, values, nodata)
        else:
            gray = self.channels == 3 and rng.random() < 0.2
            colour = self.channels == 1 and rng.random() < 0.3
            channels = 1 if gray else 3 if colour else self.channels
            if odd:
                kind = "png" if channels in (1, 3, 4) else "npy"
            pixels = np.rint(255 * smooth(rng, height, width, channels)).astype(np.uint8)
            deep = self.channels == 3 and rng.random() < 0.04
            data = encode_8_bits(rng, kind, pixels)
        if deep:
            kind = str(rng.choice(["png", "ppm"]))
            data = encode_deep_colour(rng, kind, np.rint(65535 * smooth(rng, height, width, 3)))
        if rng.random() < 0.02:  # too large
            data, kind = encode_8_bits(rng, "png", np.zeros((120, 120, 3), np.uint8)), "png"
        if rng.random() < self.broken:
            data = break_file(rng, data)
            if rng.random() < 0.1:
                data, kind = odd_array(rng), "npy"
        extension = EXTENSIONS.get(kind, kind)
        if rng.random() < 0.08:
            extension = str(rng.choice(["jpg", "png", "JPEG", "webp", "npy"]))  # the content counts
        return data, extension.upper() if rng.random() < 0.1 else extension


def smooth(rng, height, width, channels):
    """(H, W, C) float64 in [0, 1]: a gradient with waves, each image with its own part of the range."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    low, high = np.sort(rng.uniform(0, 1, 2))
    planes = []
    for _ in range(channels):
        a, b, phase = rng.uniform(-2, 2, 3)
        planes.append(0.5 + 0.5 * np.sin(3 * a * x + 3 * b * y + 3 * phase))
    return low + (high - low) * np.stack(planes, -1)


def wide_values(rng, style, height, width, channels, dirty):
    """(H, W, C) of a style's dtype; dirty: with missing values and outliers."""
    low, high = RANGES[style]
    values = low + (high - low) * smooth(rng, height, width, channels)
    dtype = np.dtype(WIDE_DTYPES[style])
    values = (values if dtype.kind == "f" else np.rint(values)).astype(dtype)
    if dirty:
        holes = rng.random(values.shape) < 0.1
        if dtype.kind == "f":
            values[holes] = rng.choice([np.nan, np.inf, -np.inf])
        if style in NODATA:
            values[rng.random(values.shape) < 0.1] = NODATA[style]
    return values


def encode_wide(rng, kind, values, nodata=None):
    """Bytes of a .npy, TIFF, PNG or PGM file of values (H, W, C); the last two for one band of uint16.

    kind: "pillow" for a TIFF file of one band that Pillow writes.
    """
    flat = values[..., 0] if values.shape[2] == 1 else values
    if kind == "npy":
        return _npy(np.asfortranarray(flat) if rng.random() < 0.3 else flat)
    if kind == "png":
        return _saved(Image.fromarray(flat.astype(np.uint16)), "PNG")
    if kind == "pgm":
        white = 4095 if flat.max() < 4096 and rng.random() < 0.5 else 65535
        return b"P5\n%d %d\n%d\n" % (*flat.shape[::-1], white) + flat.astype(">u2").tobytes()
    if kind == "pillow":
        return _saved(Image.fromarray(flat), "TIFF", compression=str(rng.choice(["raw", "tiff_lzw"])))
    return _tiff(rng, values, nodata)


def encode_8_bits(rng, kind, pixels):
    """Bytes of a file of pixels (H, W, C) uint8; C is 1 or 3 (png: or 4) unless kind is npy or tiff."""
    flat = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    if kind == "npy":
        return _npy(flat)
    if kind == "tiff" and (pixels.shape[2] not in (1, 3) or rng.random() < 0.5):
        return _tiff(rng, pixels)
    image = Image.fromarray(flat)
    options = {}
    if kind == "tiff":
        options = {"compression": str(rng.choice(["raw", "tiff_lzw", "tiff_adobe_deflate"]))}
    if kind == "jpeg":
        options = {"quality": int(rng.integers(60, 95)), "progressive": bool(rng.random() < 0.3)}
        if rng.random() < 0.1 and image.mode == "RGB":
            image = image.convert("CMYK")
    if kind in ("png", "gif") and image.mode == "RGB" and rng.random() < 0.2:
        image = image.convert("P")
        if rng.random() < 0.5:
            options["transparency"] = 0
    if kind == "png" and image.mode == "RGB" and rng.random() < 0.15:
        image.putalpha(Image.fromarray(rng.integers(0, 256, flat.shape[:2], np.uint8)))
    if kind == "png" and image.mode == "L" and rng.random() < 0.2:
        image = image.convert(str(rng.choice(["1", "LA"])))
    if kind == "webp":
        options = {"lossless": bool(rng.random() < 0.5)}
    if kind in ("gif", "webp", "tiff") and rng.random() < 0.15:
        options |= {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
    if kind in ("jpeg", "png", "webp") and rng.random() < 0.25:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = int(rng.integers(0, 10))  # 0 and 9 are no orientations
    return _saved(image, kind.upper(), **options)


def encode_deep_colour(rng, kind, values):
    """Bytes of a PNG or PPM file with 16 bits for each of 3 colours; values: (H, W, 3) uint16.

    Of some PNG files for gray and alpha.
    """
    if kind == "png" and rng.random() < 0.3:
        values = np.stack([values[..., 0], np.full(values.shape[:2], 65535)], -1)
    height, width, colours = values.shape
    data = values.astype(">u2").tobytes()
    if kind == "ppm":
        return b"P6\n%d %d\n65535\n" % (width, height) + data
    rows = b"".join(
        b"\0" + data[i * width * colours * 2 : (i + 1) * width * colours * 2] for i in range(height)
    )
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2 if colours == 3 else 4, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(x)) + n + x + struct.pack(">I", zlib.crc32(n + x)) for n, x in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def odd_array(rng):
    """Bytes of a .npy file that is no image."""
    shapes = ((5,), (2, 4, 4, 3), (0, 5), (4, 0, 3), ())
    if rng.random() < 0.6:
        return _npy(np.zeros(shapes[int(rng.integers(len(shapes)))], np.float32))
    return _npy(np.zeros((5, 6), rng.choice(["bool", "complex64", "U3", "datetime64[s]"])))


def break_file(rng, data):
    """Bytes of a file that is no image any more, or only in part."""
    how = rng.choice(BREAKS)
    if how == "truncated":
        return data[: int(rng.integers(1, len(data)))]
    if how == "html":
        return b"<!DOCTYPE html><html><body>429 Too Many Requests</body></html>"
    if how == "noise":
        return rng.bytes(int(rng.integers(1, 400)))
    if how == "header":
        return data[:4] + rng.bytes(40)
    return b""


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _tiff(rng, values, nodata=None):
    file, channels = io.BytesIO(), values.shape[2]
    options = {"photometric": "rgb" if channels == 3 else "minisblack"}
    extra = []
    if nodata is not None:
        extra.append((42113, 2, 0, f"{nodata:g}", True))
    if rng.random() < 0.2:
        extra.append((274, 3, 1, int(rng.integers(1, 9)), True))
    planar = channels > 1 and rng.random() < 0.4
    if channels > 1:
        options["planarconfig"] = "separate" if planar else "contig"
    flat = np.moveaxis(values, -1, 0) if planar else values[..., 0] if channels == 1 else values
    options["byteorder"] = str(rng.choice(["<", ">"]))
    options["bigtiff"] = bool(rng.random() < 0.2)
    if rng.random() < 0.3:
        options["rowsperstrip"] = 3
    tifffile.imwrite(file, np.ascontiguousarray(flat), extratags=extra, metadata=None, **options)
    return file.getvalue()
