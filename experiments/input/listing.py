"""Cost of a folder with many files: CPU time until the first batch, and private memory of a worker process.

    python experiments/input/listing.py --files=200000 --classes=1000

The folder is made of hard links to 50 small JPEGs, so it takes no space, and is removed at the end.
"""

import argparse
import json
import os
import pickle
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from fastmim_jax.data.loader import make_loader
from fastmim_jax.data.sources import open_source, split_names

IMPORTS = time.process_time()  # CPU seconds until here
JPEGS = 50


def make_folder(root, files, classes):
    """Write root/n00000000/n00000000_0.JPEG and so on: names as long as those of ImageNet-1k."""
    rng, originals = np.random.default_rng(0), []
    for index in range(JPEGS):
        path = root / f"{index}.jpg"
        noise = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
        noise.resize((96, 96), Image.Resampling.BICUBIC).save(path)
        originals.append(path)
    for number in range(files):
        name = f"n{1440764 + number % classes * 13579:08}"
        folder = root / "images" / name
        if number < classes:
            folder.mkdir(parents=True)
        os.link(originals[number % JPEGS], folder / f"{name}_{number // classes * 37 % 99991}.JPEG")
    for folder, _, _ in os.walk(root / "images"):
        os.utime(folder, (0, 0))  # as old as the folders of a data set
    return root / "images"


def cpu_seconds(function):
    """-> (CPU seconds of this process, result)."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def children():
    """-> {process id: (CPU seconds, private MB)} of the processes that this one started."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            if (
                int(fields[1]) != os.getpid()
                or "resource_tracker" in (status.parent / "cmdline").read_text()
            ):
                continue
            rollup = (status.parent / "smaps_rollup").read_text()
        except (OSError, ProcessLookupError):
            continue
        ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
        found[int(status.parent.name)] = (ticks, private / 1024)
    return found


def measure(folder):
    """-> the figures of a folder."""
    scan, source = cpu_seconds(lambda: open_source(folder))
    again, _ = cpu_seconds(lambda: (split_names(folder), open_source(folder)))
    pack, data = cpu_seconds(lambda: pickle.dumps(source))
    load, _ = cpu_seconds(lambda: pickle.loads(data))
    figures = dict(
        files=len(source),
        scan_s=scan,
        second_opening_s=again,
        pickle_s=pack,
        unpickle_s=load,
        pickle_bytes=len(data),
    )
    options = dict(image_size=(128, 128), channels=3, batch_size=64, seed=0, workers=2)
    with make_loader(source, **options) as loader:
        first, _ = cpu_seconds(lambda: next(loader))
        for _ in range(10):
            next(loader)
        workers = children()
    return figures | dict(
        first_batch_s=first,
        imports_s=IMPORTS,
        worker_cpu_s=max(seconds for seconds, _ in workers.values()),
        worker_private_mb=max(private for _, private in workers.values()),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=1000)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="listing-"))
    try:
        folder = make_folder(root, options.files, options.classes)
        figures = measure(folder)
    finally:
        shutil.rmtree(root)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
