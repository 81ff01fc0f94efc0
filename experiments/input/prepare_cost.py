"""CPU time, size and fidelity of `fastmim prepare`, per image of a data set and per layout.

    python experiments/input/prepare_cost.py DATA_SET SPLIT

The reference decodes with Pillow and resizes to the same size with its antialiased bicubic filter. Times
are CPU time of one process, the smallest of REPEATS passes over the split; PSNR is of the stored image,
decoded, against the reference.
"""

import io
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from fastmim_jax.data.decode import decode, read_image
from fastmim_jax.data.records.encode import shrunk_size
from fastmim_jax.data.records.record import LAYOUTS
from fastmim_jax.data.sources import open_source
from fastmim_jax.tools.prepare.command import prepare
from fastmim_jax.tools.prepare.settings import make_settings, open_splits
from fastmim_jax.tools.prepare.shards import ShardWriter, make_tasks

SHORT_SIDE, REPEATS = 256, 5


def cpu_ms(images, function, *arguments):
    """Return the CPU time of function(*arguments) per image, milliseconds."""
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        function(*arguments)
        seconds.append(time.process_time() - start)
    return min(seconds) / images * 1e3


def reference(file):
    image = Image.open(io.BytesIO(file)).convert("RGB")
    size = shrunk_size(image.height, image.width, SHORT_SIDE)
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC))


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


def decode_all(images):
    return [decode(image) for image in images]


def write_shards(path, split, layout, folder):
    """Write the shards of a split, as a worker of `fastmim prepare` does."""
    sources = open_splits(path, [split])
    options = dict(layout=layout, short_side=SHORT_SIDE, quality=None, channels=3, value_range=())
    settings = make_settings(path, sources, **options)
    writer = ShardWriter(sources, settings, str(folder), str(folder))
    for task in make_tasks(settings.records):
        writer(task, lambda images: None)


def main(path, split):
    source = open_source(path, split)
    files = [source[index] for index in range(len(source))]
    references = [reference(file) for file in files]
    milliseconds = cpu_ms(len(files), lambda: [reference(file) for file in files])
    print(f"{len(files)} images; Pillow: decode and resize {milliseconds:.2f} ms an image")
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            milliseconds = cpu_ms(len(files), write_shards, path, split, layout, folder)
            prepare(path, str(folder / "out"), layout=layout, splits=[split], workers=1)
            stored = open_source(folder / "out", split)
            size = sum(shard.bytes for shard in stored.facts.shards) / 1024 / len(stored)
            images = [stored[index] for index in range(len(stored))]
            decoding = cpu_ms(len(images), decode_all, images)
            values = [psnr(read_image(stored, index), image) for index, image in enumerate(references)]
            print(
                f"{layout}: prepare {milliseconds:.2f} ms, decode {decoding:.2f} ms, {size:.1f} KiB, "
                f"PSNR median {np.median(values):.1f} dB, least {min(values):.1f} dB"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
