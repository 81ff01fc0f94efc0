"""CPU time of opening each kind of data set, and of reading its records in random order, without decoding.

    python experiments/input/kinds.py --records=2000

The records are files of 110 kB, as those of ImageNet-1k on average, that do not compress.
"""

import argparse
import io
import json
import os
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from fastmim_jax.data.sources import open_source

BYTES = 110_000
CLASSES = 10
AS_HUGGING_FACE = dict(compression="none", use_dictionary=False, write_batch_size=10)  # pages of 1 MB


def write_folder(root, records):
    for number, data in enumerate(records):
        path = root / f"class{number * CLASSES // len(records)}" / f"{number:07}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(root, records, method):
    with zipfile.ZipFile(root / "a.zip", "w", method) as archive:
        for number, data in enumerate(records):
            archive.writestr(f"class{number * CLASSES // len(records)}/{number:07}.jpg", data)
    return root / "a.zip"


def write_tar(root, records):
    with tarfile.open(root / "a.tar", "w") as archive:
        for number, image in enumerate(records):
            for kind, data in (("jpg", image), ("cls", b"%d" % (number % CLASSES))):
                member = tarfile.TarInfo(f"{number:07}.{kind}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return root / "a.tar"


def table(records):
    return pa.table({"image": records, "label": [number % CLASSES for number in range(len(records))]})


def write_parquet(root, records, **options):
    parquet.write_table(table(records), root / "a.parquet", **options)
    return root / "a.parquet"


def write_arrow(root, records):
    rows = table(records)
    with pa.ipc.new_stream(str(root / "data.arrow"), rows.schema) as stream:
        stream.write_table(rows, max_chunksize=1000)
    (root / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (root / "dataset_info.json").write_text("{}")
    return root


WRITERS = {
    "folder": write_folder,
    "zip, stored": lambda root, records: write_zip(root, records, zipfile.ZIP_STORED),
    "zip, deflated": lambda root, records: write_zip(root, records, zipfile.ZIP_DEFLATED),
    "webdataset .tar": write_tar,
    "Arrow (save_to_disk)": write_arrow,
    "parquet of Hugging Face": lambda root, records: write_parquet(root, records, **AS_HUGGING_FACE),
    "parquet, defaults of pyarrow": lambda root, records: write_parquet(root, records, row_group_size=100),
}


def microseconds(function, count):
    """-> CPU microseconds of this process per record."""
    start = time.process_time()
    function()
    return (time.process_time() - start) / count * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=2000)
    count = parser.parse_args().records
    rng = np.random.default_rng(0)
    records, order = [rng.bytes(BYTES) for _ in range(count)], rng.permutation(count)
    for kind, write in WRITERS.items():
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder
            root = Path(folder) / "data"
            root.mkdir()
            path = write(root, records)
            first = microseconds(lambda path=path: open_source(path), count)
            again = microseconds(lambda path=path: open_source(path), count)
            source = open_source(path)
            assert all(source[int(index)] == records[index] for index in order[:5])
            reading = microseconds(lambda source=source: [source[int(index)] for index in order], count)
            in_order = microseconds(lambda source=source: [source[index] for index in range(count)], count)
        figures = dict(
            first_opening_us=first, opening_us=again, random_read_us=reading, read_in_order_us=in_order
        )
        print(
            json.dumps({"kind": kind} | {name: round(value, 1) for name, value in figures.items()}),
            flush=True,
        )


if __name__ == "__main__":
    main()
