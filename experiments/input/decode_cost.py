"""Memory and CPU seconds of decoding: images at the limit of pixels, and mutated images. Linux.

    python experiments/input/decode_cost.py largest            # every format and mode at max_pixels
    python experiments/input/decode_cost.py mutated 2000 0     # images, seed

Memory is the highest resident size during a decode (VmHWM, reset before it) less the size before.
"""

import gc
import io
import sys
import time
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image

from fastmim_jax.data.decode import decode
from fastmim_jax.data.image_formats import register_heif
from fastmim_jax.data.limits import MAX_PIXELS, DecodeError

Image.MAX_IMAGE_PIXELS = None  # Pillow warns from 89 million pixels on
warnings.simplefilter("ignore")
SAVED = {  # name -> mode, format, options, share of MAX_PIXELS
    "PNG RGB": ("RGB", "PNG", {"compress_level": 1}, 1),
    "PNG RGBA": ("RGBA", "PNG", {"compress_level": 1}, 1),
    "PNG 16 bits": ("I;16", "PNG", {"compress_level": 1}, 1),
    "GIF": ("P", "GIF", {}, 1),
    "TIFF RGB": ("RGB", "TIFF", {"compression": "tiff_deflate"}, 1),
    "TIFF CMYK": ("CMYK", "TIFF", {"compression": "tiff_deflate"}, 1 / 1.5),
    "TIFF float": ("F", "TIFF", {"compression": "tiff_deflate"}, 1 / 1.5),
    "JPEG": ("RGB", "JPEG", {"quality": 50}, 1),
    "JPEG progressive": ("RGB", "JPEG", {"progressive": True, "subsampling": 0}, 1 / 1.25),
    "JPEG CMYK progressive": ("CMYK", "JPEG", {"progressive": True}, 1 / 1.5),
    "WebP": ("RGBA", "WEBP", {"lossless": True, "quality": 0, "method": 0}, 1 / 2.5),
    "AVIF": ("RGBA", "AVIF", {"speed": 10, "quality": 10}, 1 / 2),
    "HEIF": ("RGB", "HEIF", {"quality": 20}, 1 / 2),
    "JPEG 2000": ("RGB", "JPEG2000", {"irreversible": True, "quality_layers": [400]}, 1 / 2.5),
}


def encode(pixels: np.ndarray, mode: str, kind: str, options: dict) -> bytes:
    if mode == "F":
        image = Image.fromarray(pixels[..., 0].astype(np.float32) / 255)
    elif mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels)
        image = image.quantize(16) if mode == "P" else image.convert(mode)
    if mode == "RGBA":
        image.putalpha(100)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def stripes(side: int) -> np.ndarray:
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[::7] = 50
    pixels[:, ::5] += 20
    return pixels


def status(key: str) -> float:
    """Return a line of /proc/self/status in MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) * 1024 / 1e6


def cost(data: bytes) -> tuple[float, float, str]:
    """Return MB, CPU seconds and what came of it."""
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before, start = status("VmRSS"), time.process_time()
    try:
        result = str(decode(data).shape)
    except DecodeError as error:
        result = error.reason
    return status("VmHWM") - before, time.process_time() - start, result


def mutations(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield images with damaged bytes, most of them near the start, where the sizes stand."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:90, :120]
    waves = np.stack([127 + 120 * np.sin(x / 9 + y / k) for k in (5, 7, 11)], -1).astype(np.uint8)
    files = {name: encode(waves, *saved[:3]) for name, saved in SAVED.items()}
    for number in range(count):
        name = list(files)[number % len(files)]
        data = np.frombuffer(files[name], np.uint8).copy()
        reach = (64, 700, len(data))[number // len(files) % 3]
        for _ in range(rng.integers(1, 6)):
            where = int(rng.integers(0, min(reach, len(data))))
            data[where] = rng.choice(
                [rng.integers(0, 256), 0, 255, 127, data[where] ^ 1 << rng.integers(8)]
            )
        yield name, data[: len(data) if rng.random() < 0.8 else rng.integers(1, len(data))].tobytes()


def main() -> None:
    register_heif()
    decode(encode(stripes(64), "RGB", "JPEG", {}))
    if sys.argv[1] == "largest":
        for name, (mode, kind, options, share) in SAVED.items():
            data = encode(stripes(int((MAX_PIXELS * share) ** 0.5)), mode, kind, options)
            memory, seconds, result = cost(data)
            print(
                f"{name:22s} {len(data) / 1e6:7.2f} MB {memory:6.0f} MB {seconds:5.2f} s  {result}",
                flush=True,
            )
        return
    costs = [(*cost(data), name) for name, data in mutations(int(sys.argv[2]), int(sys.argv[3]))]
    read = sum(result.startswith("(") for _, _, result, _ in costs)
    print(f"{read} of {len(costs)} read, the others refused with a reason")
    for order, what in ((0, "memory"), (1, "seconds")):
        for memory, seconds, result, name in sorted(costs, key=lambda row: -row[order])[:3]:
            print(f"worst {what}: {memory:.0f} MB, {seconds:.2f} s, {name}, {result}")


if __name__ == "__main__":
    main()
