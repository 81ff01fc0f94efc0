"""Small random data sets on disk, each a function of a number: every kind, as people really have them."""

import io
import os
import tarfile
import zipfile
from typing import NamedTuple

import numpy as np
import pytest

from helpers.random_images import Style

LAYOUTS = ("folder", "folder", "folder", "list", "zip", "tar", "parquet", "joined")
CLASSES = (
    "cat",
    "dog",
    "Éclair",
    "two words",
    "10",
    "9",
    "日本",
    "a.b",
    "🦊 fox",
    "x" * 200,
    "train",
    "tab\tx",
)
SPLITS = {
    "train": ("train", "Training", "TRAIN", "train2017", "training_set", "trn", "images_train"),
    "val": ("val", "valid", "Validation", "dev", "VAL", "val2017", "validation-split", "eval"),
    "test": ("test", "Testing", "tst", "test_images"),
}
BESIDE = ("__MACOSX", "annotations", ".cache", "docs")


class DataSet(NamedTuple):
    """A data set, as a user would type it.

    path, split: of the data. channels: of the model. value_range, nodata: declared, () where they are not.
    size: side of most of the images, which is that of the crops. max_pixels: of an image. workers: that
    read it.
    """

    path: str
    split: str
    channels: int
    value_range: tuple
    nodata: tuple
    size: int
    max_pixels: int = 10_000
    workers: int = 0


def make_data_set(number, root):
    """Write data set `number` below a folder."""
    rng = np.random.default_rng(number)
    style = Style(rng)
    layout, split = str(rng.choice(LAYOUTS)), "train"
    if layout == "joined":
        parts = [str(x) for x in rng.choice(("folder", "zip", "list", "tar", "parquet"), 2, replace=False)]
        found = [_WRITERS[x](rng, style, os.path.join(root, f"part{i}")) for i, x in enumerate(parts)]
        path = "::".join(x for x, _ in found)
    else:
        path, split = _WRITERS[layout](rng, style, os.path.join(root, "data"))
    return DataSet(path, split, style.channels, style.value_range, style.nodata, style.size)


def _stem(rng, number):
    """A name of a file, without its extension."""
    stems = (
        "img",
        "with space",
        "Überfluß",
        "🌈",
        "a.b.c",
        "-dash",
        "#hash",
        "日本語",
        "n" * 180,
        "%s",
        "'q\"",
    )
    return f"{rng.choice(stems)}{number:03}" if rng.random() < 0.5 else f"{number:03}"


def _classes(rng):
    names = [str(x) for x in rng.choice(CLASSES, int(rng.integers(1, 4)), replace=False)]
    return names if rng.random() < 0.85 else []


def _tree(rng, style, classes, count):
    """[(name with folders, bytes)] of images and other files, without what only a file system holds."""
    files = []
    for number in range(count):
        data, extension = style.image()
        folder = f"{rng.choice(classes)}/" if classes else ""
        if classes and rng.random() < 0.15:
            folder += "deeper/"
        if classes and rng.random() < 0.04:
            folder = ""
        files.append((f"{folder}{_stem(rng, number)}.{extension}", data))
    for _ in range(int(rng.integers(0, 4))):
        folder = f"{rng.choice(classes)}/" if classes and rng.random() < 0.6 else ""
        name = str(
            rng.choice(["readme.txt", "boxes.XML", "Makefile", ".hidden.jpg", "clip.mp4", "Thumbs.db"])
        )
        files.append((folder + name, b"no image"))
    if rng.random() < 0.2:
        files.append(("only text/notes.txt", b"x"))
    return list(dict(files).items())


def _divided_tree(rng, style):
    """(files, split to ask for) of a tree that may be divided into splits."""
    classes, count = _classes(rng), int(rng.integers(3, 13))
    if rng.random() < 0.5:
        return _tree(rng, style, classes, count), "train" if rng.random() < 0.95 else "val"
    chosen = ["train", *(x for x in ("val", "test") if rng.random() < 0.6)]
    files = []
    for split in chosen:
        some = classes[: max(1, len(classes) - int(rng.random() < 0.4))]  # val lacks a class
        folder = str(rng.choice(SPLITS[split]))
        files += [(f"{folder}/{name}", data) for name, data in _tree(rng, style, some, max(2, count // 2))]
    beside = str(rng.choice(BESIDE))
    if rng.random() < 0.5:
        files.append((f"{beside}/notes.json", b"{}"))
    if rng.random() < 0.15:
        files.append((f"{beside}/picture.png", style.image()[0]))
    if rng.random() < 0.1:
        files.append(("logo.png", style.image()[0]))
    asked = str(rng.choice([*chosen, "train", "val", "test", "valid"]))
    return files, asked


def _write(root, name, data):
    path = os.path.join(os.fsencode(root), name if isinstance(name, bytes) else os.fsencode(name))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def _write_folder(rng, style, root):
    files, split = _divided_tree(rng, style)
    os.makedirs(root, exist_ok=True)
    for name, data in files:
        _write(root, name, data)
    _add_odd_entries(rng, style, root)
    return root, split


def _add_odd_entries(rng, style, root):
    """Links, FIFOs, empty folders, pictures of a run, and names that are not UTF-8."""
    folders = sorted(path for path, _, _ in os.walk(root))
    images = sorted(os.path.join(path, x) for path, _, files in os.walk(root) for x in files)
    for number in range(int(rng.integers(0, 5)) if rng.random() < 0.6 else 0):
        place = str(rng.choice(folders))
        new = os.path.join(place, f"odd{number}")
        match rng.integers(0, 12):
            case 0:
                os.mkfifo(f"{new}.png")
            case 1:
                os.symlink("nothing.png", f"{new}.png")
            case 2:
                os.symlink(f"odd{number}.png", f"{new}.png")
            case 3:
                os.symlink(str(rng.choice(images)), f"{new}.png")
            case 4:
                os.symlink(os.path.relpath(str(rng.choice(images)), place), f"{new}.jpg")
            case 5:
                os.symlink(str(rng.choice(folders)), new)
            case 6:
                os.symlink(root, f"{place}/aaa{number}")
            case 7:
                os.makedirs(f"{new}/empty")
            case 8:
                _write(place, b"caf\xe9.png", style.image()[0])
            case 9:
                _write(os.path.join(os.fsencode(place), b"\xff\xfe"), "inside.png", style.image()[0])
            case 10:
                _write(place, f"two\nlines\\x{number}.png", style.image()[0])
            case 11:
                _write(f"{new}/pictures", "reconstruction.png", style.image()[0])
                _write(new, "config.json", b"{}")
                _write(new, "metrics.jsonl", b"")


def _write_list(rng, style, root):
    classes = _classes(rng)
    files = _tree(rng, style, classes, int(rng.integers(3, 13)))
    if rng.random() < 0.3:
        files.append((b"caf\xe9.png", style.image()[0]))
    for name, data in files:
        _write(f"{root}/images", name, data)
    names = [os.fsencode(name) for name, _ in files] + [b"missing.png"] * (rng.random() < 0.3)
    lines, labels = [b"# a comment", b"", b"   "], rng.random() < 0.8
    for name in rng.permutation(np.array(names, object)):
        start = os.fsencode(root) + b"/" if rng.random() < 0.1 else b""
        if b"\t" in name:
            continue
        label = name.split(b"/")[0] if labels and rng.random() < 0.97 else b""
        lines.append(start + b"images/" + name + (b"\t" + label if label else b""))
    if rng.random() < 0.2:
        os.mkfifo(f"{root}/pipe.png")
        lines.append(b"pipe.png\tcat")
    if rng.random() < 0.2:
        lines.append(b"images")
    end = b"\r\n" if rng.random() < 0.3 else b"\n"
    _write(root, "list.txt", b"\xef\xbb\xbf" * (rng.random() < 0.2) + end.join(lines))
    return f"{root}/list.txt", "train" if rng.random() < 0.95 else "val"


def _write_zip(rng, style, root):
    files, split = _divided_tree(rng, style)
    wrap = str(rng.choice(["", "", "data set/", "outer/inner/"]))
    path = f"{root}.{rng.choice(['zip', 'ZIP'])}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with zipfile.ZipFile(path, "w", int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        for name, data in files:
            archive.writestr(wrap + name, data)
        if rng.random() < 0.3:
            archive.writestr(f"__MACOSX/{wrap}._{os.path.basename(files[0][0])}", b"mac")
        if rng.random() < 0.2:
            archive.mkdir(f"{wrap}empty folder")
    return path, split


def _write_tar(rng, style, root):
    os.makedirs(root)
    classes, count = _classes(rng), int(rng.integers(3, 13))
    kind = str(rng.choice(["cls", "json", "json number", "txt", "none"]))
    shards, split = int(rng.integers(1, 4)), bool(rng.random() < 0.3)
    numbers = iter(range(count))
    for shard, part in enumerate(np.array_split(np.arange(count), shards)):
        name = ("val" if shard == 1 else "train") if split else "shard"
        with tarfile.open(f"{root}/{name}-{shard:04}.tar", "w") as archive:
            for _ in part:
                number = next(numbers)
                data, extension = style.image()
                key = f"{rng.choice(classes)}/" if classes and rng.random() < 0.5 else ""
                key += _stem(rng, number).replace(".", "_")
                label = int(rng.integers(0, 3))
                beside = {
                    "cls": {"cls": b"%d" % label},
                    "json": {"json": b'{"id": 7, "label": "%s"}' % (b"dog", b"cat", b"bird")[label]},
                    "json number": {"json": b'{"width": 9, "cls": %d}' % label},
                    "txt": {"txt": (b"red", b"green", b"blue")[label] + b"\n"},
                    "none": {},
                }[kind]
                members = {extension: data, **beside} if rng.random() < 0.95 else beside
                for ext, content in members.items():
                    member = tarfile.TarInfo(f"{key}.{ext}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    if not split and rng.random() < 0.3:
        return f"{root}/shard-{{0000..{shards - 1:04}}}.tar", "train"
    return root, str(rng.choice(["train", "train", "val", "test"])) if split else "train"


def _write_parquet(rng, style, root):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    os.makedirs(root)
    nested, label = bool(rng.random() < 0.5), str(rng.choice(["text", "number", "none"]))
    split = bool(rng.random() < 0.3)
    for number in range(int(rng.integers(1, 3))):
        rows = [style.image()[0] for _ in range(int(rng.integers(2, 7)))]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if nested else pa.binary()
        cells = [{"bytes": x, "path": f"{i}.png"} if nested else x for i, x in enumerate(rows)]
        columns = {"image": pa.array(cells, kind)}
        labels = rng.integers(0, 12, len(rows)).tolist()
        if label == "text":
            columns["label"] = pa.array([CLASSES[i] for i in labels])
        if label == "number":
            columns["label"] = pa.array([None if rng.random() < 0.05 else i for i in labels], pa.int64())
        name = ("train", "validation")[number] if split else "part"
        parquet.write_table(pa.table(columns), f"{root}/{name}-{number}.parquet", row_group_size=3)
    return root, str(rng.choice(["train", "validation", "val"])) if split else "train"


_WRITERS = {
    "folder": _write_folder,
    "list": _write_list,
    "zip": _write_zip,
    "tar": _write_tar,
    "parquet": _write_parquet,
}
