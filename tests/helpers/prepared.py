"""Prepared data sets written by hand, without `fastmim prepare`."""

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from fastmim_jax.data.records.index import write_chunks, write_index
from fastmim_jax.data.records.manifest import Manifest, Shard, SplitFacts, Spread
from fastmim_jax.data.records.record import pack
from fastmim_jax.data.sources.pread import stamp
from fastmim_jax.data.sources.riegeli import find_chunks
from fastmim_jax.io import write_json


def write_records(path, images, shapes, layout, value_range=(0.0, 255.0), dtype="uint8", shards=2):
    """Write a split "train" with the classes a and b in turn, named image0 and so on -> path."""
    (path / "train").mkdir(parents=True)
    labels, names = [i % 2 for i in range(len(images))], [f"b/image{i}" for i in range(len(images))]
    packed = list(map(pack, images, shapes, labels, names))
    listed, chunks = [], []
    for number, part in enumerate(np.array_split(np.arange(len(packed)), shards)):
        file = f"train/{number:05}-of-{shards:05}.array_record"
        writer = ArrayRecordWriter(str(path / file), "group_size:1,uncompressed")
        for index in part:
            writer.write(packed[index])
        writer.close()
        listed.append(Shard(file, len(part), (path / file).stat().st_size, "0" * 64))
        chunks += find_chunks(stamp(path / file), len(part))
    write_chunks(str(path / "train"), chunks)
    write_index(str(path / "train"), labels, names)
    heights, widths, channels = zip(*shapes, strict=True)
    numbers = (0.0,) * channels[0]
    facts = SplitFacts(
        records=len(images),
        classes=("a", "b"),
        records_per_class={"a": labels.count(0), "b": labels.count(1)},
        unlabelled=0,
        height=Spread(min(heights), float(np.median(heights)), max(heights)),
        width=Spread(min(widths), float(np.median(widths)), max(widths)),
        mean=numbers,
        std=numbers,
        lowest=numbers,
        highest=numbers,
        copied=0,
        shards=tuple(listed),
        unreadable=(),
    )
    manifest = Manifest({}, layout, dtype, channels[0], value_range, {}, {"train": facts}, "0" * 64)
    write_json(path / "manifest.json", manifest.to_json())
    return path
