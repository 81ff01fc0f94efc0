"""The kinds of image files that count as images: those that the installed Pillow decodes by itself."""

import functools
import importlib.util

from PIL import Image, features

_COMMON = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF")  # tried first, in this order
# Pillow leaves their pixels to an external program, a handler of the user or the operating system.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# Files of other kinds pass for one of these: they have no first bytes to be recognised by.
_UNRECOGNISABLE = {"IM", "IMT", "IPTC", "PCD", "SPIDER"}
_OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # format -> feature of Pillow
_JPEG_VARIANTS = {"MPO"}  # of the plugin for JPEG, with extensions of their own
HEIF_EXTENSIONS = frozenset({"heic", "heif", "heics", "heifs", "hif"})
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
_CONTAINER_BRANDS = {b"mif1", b"msf1"}  # of HEIF, and of AVIF that lists its own brand after it


def has_heif() -> bool:
    """Return whether HEIC files can be read: pillow-heif is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


@functools.cache
def formats() -> tuple[str, ...]:
    """Return the names of the formats that `decode` passes to Pillow.

    They come from Pillow's registry, so that a format of a newer Pillow counts by itself. TGA is the last:
    it is tried where no other format recognises the first bytes.
    """
    Image.init()
    missing = {name for name, feature in _OPTIONAL.items() if not features.check(feature)}
    excluded = _NOT_DECODED | _UNRECOGNISABLE | missing | {"TGA", "HEIF"}
    decoded = set(Image.registered_extensions().values()) - excluded
    common = [name for name in _COMMON if name in decoded]
    return (*common, *sorted(decoded.intersection(Image.ID).difference(common)), "TGA")


@functools.cache
def image_extensions() -> frozenset[str]:
    """Return the extensions of image files, in lower case without the dot; "npy" is one of them."""
    known = {*formats(), *_JPEG_VARIANTS}
    found = {ext[1:] for ext, name in Image.registered_extensions().items() if name in known}
    return frozenset(found | {"npy"} | (HEIF_EXTENSIONS if has_heif() else set()))


def describe_extensions() -> str:
    """Return the common extensions and the number of others, for messages."""
    common = ("jpg", "jpeg", "png", "webp", "tif", "gif", "bmp", "avif", "npy")
    shown = [name for name in common if name in image_extensions()]
    return f"{', '.join(shown)} and {len(image_extensions()) - len(shown)} other extensions"


def is_heif(data: bytes) -> bool:
    """Return whether the bytes of a file are those of a HEIC or HEIF image."""
    if data[4:8] != b"ftyp":
        return False
    brand, others = data[8:12], data[16 : int.from_bytes(data[:4], "big")]
    return brand in _HEIF_BRANDS or (brand in _CONTAINER_BRANDS and b"avif" not in others)


@functools.cache
def register_heif() -> bool:
    """Register HEIF in Pillow at its first use; return False where pillow-heif is not installed."""
    if not has_heif():
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def plausible_tga(data: bytes) -> bool:
    """Return whether a TGA file of this length can have the size in its header.

    TGA has no first bytes to be recognised by, so other files would pass for truncated ones.
    """
    if len(data) < 18:
        return False
    width, height = int.from_bytes(data[12:14], "little"), int.from_bytes(data[14:16], "little")
    kind, depth = data[2], data[16]
    size = width * height * depth // 8
    smallest = size if kind in (1, 2, 3) else size // 128  # a run of up to 128 pixels takes one and a byte
    return size > 0 and len(data) >= 18 + smallest
