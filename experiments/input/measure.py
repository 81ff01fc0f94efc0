"""CPU time of reading a random crop: our loader from four kinds of data against the published pipeline.

    python experiments/input/measure.py --data DIR --split SPLIT --out experiments/input/measured.json

Every loader runs one worker process; the CPU time of all processes counts.
The published pipeline: PIL decodes, torchvision crops (RandomResizedCrop, bicubic), flips, makes a float
tensor and normalises, a torch DataLoader batches.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path

import numpy as np

from fastmim_jax.data.loader import make_loader
from fastmim_jax.data.sources import open_source
from fastmim_jax.tools.prepare.command import prepare

from pipelines import Repeated, published_batches, write_files  # isort: skip
from pixels import differences  # isort: skip

SIZE, BATCH, WARM_UP = (128, 128), 256, 6
LAYOUTS = ("jpeg", "yuv420", "raw")
BARS = {"originals": 1.6, "jpeg": 4.5, "yuv420": 12.0, "raw": 12.0}  # times the published pipeline
CORES, CORE_BAR = 16, 12_000  # processes' worth of CPU, images a second from yuv420


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="a data set of photos, see `fastmim pretrain`")
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=4096, help="crops a round of our loader")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="JSON file for the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = make_sources(args.data, args.split, Path(folder))
        figures = {"machine": machine(), "milliseconds": measure(sources, args.images, args.rounds)}
        figures["ratios"] = ratios(figures["milliseconds"])
        figures["differences"] = differences(sources, SIZE)
    report(figures)
    if args.out:
        Path(args.out).write_text(json.dumps(figures, indent=2) + "\n")


def make_sources(path, split, folder):
    """Return {kind: Source}: the original files, and prepared records of each layout."""
    files = write_files(open_source(path, split), folder / "originals")
    sources = {"originals": open_source(str(files), "train")}
    for layout in LAYOUTS:
        prepare(str(files), str(folder / layout), layout=layout, short_side=256, workers=1)
        sources[layout] = open_source(str(folder / layout), "train")
    return sources


def measure(sources, images, rounds):
    """Return {kind: [CPU milliseconds an image of every round]}; all kinds take turns."""
    times = {}
    for _ in range(rounds):
        files = sources["originals"]
        paths = [os.path.join(files.path, files.name(index)) for index in range(len(files))]
        seconds = cpu_seconds(published_batches(paths, SIZE, BATCH), max(images // 4, 2 * BATCH))
        times.setdefault("published", []).append(1e3 * seconds)
        for kind, source in sources.items():
            times.setdefault(kind, []).append(1e3 * cpu_seconds(batches(source), images))
        print({kind: round(values[-1], 3) for kind, values in times.items()}, flush=True)
    return times


def batches(source):
    """Yield the batches of our loader."""
    layout = "yuv420" if getattr(source, "layout", "") == "yuv420" else "rgb"
    options = dict(image_size=SIZE, channels=3, batch_size=BATCH, seed=0, workers=1, threads=1)
    with make_loader(Repeated(source), layout=layout, **options) as loader:
        yield from loader


def cpu_seconds(iterator, images):
    """Return the CPU seconds an image of this process and its workers, after a warm-up."""
    for _ in range(WARM_UP):
        next(iterator)
    start = process_tree_seconds()
    for _ in range(images // BATCH):
        next(iterator)
    seconds = process_tree_seconds() - start
    iterator.close()
    return seconds / (images // BATCH * BATCH)


def process_tree_seconds():
    """Return the CPU seconds of this process and its children so far."""
    pids = [os.getpid()]
    for task in Path("/proc/self/task").iterdir():
        pids += map(int, (task / "children").read_text().split())
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def ratios(times):
    """Return {kind: [published / ours of every round]}."""
    return {
        kind: [published / ours for published, ours in zip(times["published"], values, strict=True)]
        for kind, values in times.items()
        if kind != "published"
    }


def report(figures):
    """Print the table, and whether every bar is met."""
    print(figures["machine"])
    for kind, values in figures["milliseconds"].items():
        ms = statistics.median(values)
        line = f"{kind:>10}  {ms:6.3f} ms ({min(values):.3f} to {max(values):.3f})  {1e3 / ms:6,.0f} a core"
        if kind in BARS:
            found = figures["ratios"][kind]
            ratio = statistics.median(found)
            met = "met" if ratio >= BARS[kind] else "NOT MET"
            line += (
                f"  {ratio:5.2f} times ({min(found):.2f} to {max(found):.2f}), at least {BARS[kind]}: {met}"
            )
        print(line)
    per_core = 1e3 / statistics.median(figures["milliseconds"]["yuv420"])
    met = "met" if per_core * CORES >= CORE_BAR else "NOT MET"
    print(f"{CORES} cores' worth, yuv420: {per_core * CORES:,.0f} images/s, at least {CORE_BAR:,}: {met}")
    for name, row in figures["differences"].items():
        met = "met" if row["psnr"] >= row["bound"] else "NOT MET"
        print(
            f"{name:>24}  {row['psnr']:.1f} dB (5th percentile {row['psnr_p5']:.1f}), at least "
            f"{row['bound']}: {met}; HOG cosine {row['hog_cosine']:.4f}"
        )


def machine():
    """Return the processor and the versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    return f"{name}, {os.cpu_count()} CPUs, Python {platform.python_version()}, numpy {np.__version__}"


if __name__ == "__main__":
    main()
