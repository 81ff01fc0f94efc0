"""The same labelled images written as every kind of data set, by the real library of each."""

import io
import json
import tarfile
import zipfile
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from helpers.prepared import write_records

CLASSES = ("cat", "dog")


class Item(NamedTuple):
    """An image: its name "cat/00.jpg", the bytes of its file, and its class number."""

    name: str
    data: bytes
    label: int


def make_items(count=11):
    """JPEGs of smooth noise of different sizes, in the order of their names."""
    rng, items = np.random.default_rng(0), []
    for i in range(count):
        noise = Image.fromarray(rng.integers(0, 255, (5, 5, 3), np.uint8))
        file = io.BytesIO()
        noise.resize((24 + i, 40 - i), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        label = int(i > count // 2)
        items.append(Item(f"{CLASSES[label]}/{i:02}.jpg", file.getvalue(), label))
    return items


def write_folder(root, items):
    for item in items:
        path = root / item.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.data)
    return root


def write_folders(root, items):
    """Two folders whose order together is that of the items."""
    half = len(items) // 2
    return f"{write_folder(root / 'first', items[:half])}::{write_folder(root / 'second', items[half:])}"


def write_list(root, items):
    write_folder(root / "images", items)
    lines = [f"images/{item.name}\t{CLASSES[item.label]}" for item in items]
    (root / "train.txt").write_text("# path, class\n\n" + "\n".join(lines) + "\n")
    return root / "train.txt"


def write_zip(root, items, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(root / "images.zip", "w", method) as archive:
        for item in items:
            archive.writestr(f"images/{item.name}", item.data)
    return root / "images.zip"


def write_tar(root, items, shards=2):
    """Shards written by `webdataset`, or by tarfile where it is not installed: the same members."""
    for number, part in enumerate(np.array_split(np.arange(len(items)), shards)):
        path = root / f"shard-{number:06}.tar"
        samples = [
            {
                "__key__": items[i].name.removesuffix(".jpg"),
                "jpg": items[i].data,
                "json": json.dumps({"label": CLASSES[items[i].label]}).encode(),
            }
            for i in part
        ]
        try:
            import webdataset
        except ImportError:
            _write_tar_members(path, samples)
            continue
        with webdataset.TarWriter(str(path), encoder=False) as writer:
            for sample in samples:
                writer.write(sample)
    return f"{root}/shard-{{000000..{shards - 1:06}}}.tar"


def _write_tar_members(path, samples):
    with tarfile.open(path, "w") as archive:
        for sample in samples:
            for kind in ("jpg", "json"):
                member = tarfile.TarInfo(f"{sample['__key__']}.{kind}")
                member.size = len(sample[kind])
                archive.addfile(member, io.BytesIO(sample[kind]))


def _dataset(items):
    """A Dataset of Hugging Face."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: `pip install datasets`")
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    columns = {
        "image": [{"bytes": item.data, "path": item.name} for item in items],
        "label": [item.label for item in items],
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def write_arrow(root, items):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: `pip install datasets`")
    every = _dataset(items)
    dataset = datasets.DatasetDict({"train": every, "test": every.select(range(3))})
    dataset.save_to_disk(root / "saved", num_shards={"train": 2, "test": 1})
    return root / "saved"


def write_parquet(root, items):
    half = len(items) // 2
    for number, part in enumerate((items[:half], items[half:])):
        _dataset(part).to_parquet(root / f"train-{number:05}-of-00002.parquet", batch_size=3)
    return root


def write_tfds(root, items):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Photos(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "file_name": tfds.features.Text(),
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=CLASSES),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, item in enumerate(items):
                image = io.BytesIO(item.data)
                yield i, {"file_name": item.name, "image": image, "label": item.label}

    Photos(data_dir=root, file_format="array_record").download_and_prepare()
    return root / "photos"


def write_prepared(root, items):
    shapes = [(*Image.open(io.BytesIO(item.data)).size[::-1], 3) for item in items]
    return write_records(root / "prepared", [item.data for item in items], shapes, "jpeg")


WRITERS = {
    "folder": lambda root, items: write_folder(root / "images", items),
    "folders": write_folders,
    "list": write_list,
    "zip": write_zip,
    "tar": write_tar,
    "arrow": write_arrow,
    "parquet": write_parquet,
    "tfds": write_tfds,
    "prepared": write_prepared,
}
