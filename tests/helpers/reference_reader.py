"""The records of a data set by os, zipfile, tarfile and pyarrow: slow, simple, without fastmim_jax."""

import json
import os
import stat
import tarfile
import zipfile
from collections import Counter
from typing import NamedTuple

from helpers.reference_pixels import Refused

IMAGES = {"png", "jpg", "jpeg", "tif", "tiff", "npy", "gif", "bmp", "webp", "ppm", "pgm"}
NOT_UTF8, SPECIAL = "name that is not UTF-8", "FIFO, socket or device"
NOWHERE, TWICE = "link to itself or to nothing", "link to a folder listed already"
RUN = "work directory or pictures of a run"
TRAIN = ("train", "training", "trn", "train2017", "training_set", "images_train")
VAL = ("val", "valid", "validation", "dev", "val2017", "validation-split", "eval")
TEST = ("test", "testing", "tst", "test_images")


class NoSplit(Refused):
    """A split that a data set lacks."""


class Record(NamedTuple):
    """name: as the source tells it. data: bytes of its file. label: name of its class, or None."""

    name: str
    data: bytes
    label: str | None


class Listing(NamedTuple):
    """records: in order. classes: in order. others: {extension: number}. skipped: {reason: number}.

    missing: lines of a list without a file. left_out: whether there are images outside of all splits.
    """

    records: list
    classes: list
    others: Counter
    skipped: Counter
    missing: int = 0
    left_out: bool = False


def read_listing(path, split):
    """The Listing of a data set; Refused where there are no such records."""
    parts = path.split("::")
    if len(parts) > 1:
        listings = [_read_one(part, split) for part in parts if _offers(part, split)]
        if not listings:
            raise NoSplit("no such split")
        return _join(listings)
    return _read_one(path, split)


def _join(listings):
    classes = [x.classes for x in listings if x.classes]
    merged = (
        classes[0] if classes and all(x == classes[0] for x in classes) else sorted(set(sum(classes, [])))
    )
    return Listing(
        [record for x in listings for record in x.records],
        merged,
        sum((x.others for x in listings), Counter()),
        sum((x.skipped for x in listings), Counter()),
        sum(x.missing for x in listings),
        any(x.left_out for x in listings),
    )


def _offers(path, split):
    try:
        _read_one(path, split)
    except NoSplit:
        return False
    except Refused:
        pass
    return True


def _read_one(path, split):
    if path.endswith(".txt"):
        return _read_list(path, split)
    if path.lower().endswith(".zip"):
        return _read_zip(path, split)
    if "{" in path:
        return _read_tar(sorted(_files(os.path.dirname(path), ".tar")), split, divided=False)
    if _files(path, ".tar"):
        return _read_tar(_files(path, ".tar"), split)
    if _files(path, ".parquet"):
        return _read_parquet(_files(path, ".parquet"), split)
    return _read_folder(path, split)


def _files(folder, extension):
    names = sorted(os.listdir(folder))
    return [os.path.join(folder, x) for x in names if x.endswith(extension) and not x.startswith(".")]


def _extension(name):
    return name.rpartition(".")[2].lower() if "." in name else ""


def _kind(folder, name):
    """ "folder", "file", or why an entry of a folder is skipped."""
    path = os.path.join(folder, name)
    try:
        name.encode()
        mode = os.stat(path).st_mode
    except UnicodeEncodeError:
        return NOT_UTF8
    except OSError:
        return NOWHERE
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else SPECIAL


def _meaning(folder):
    name = folder.lower()
    return "train" if name in TRAIN else "val" if name in VAL else "test" if name in TEST else None


def choose_split(split, folders, filled, right):
    """(folder of a split or "" for all, whether images are left out); Refused if there is none.

    folders: sorted names. filled: those with images below. right: whether there are images beside them.
    """
    usual = ("train", "val", "valid", "validation", "test")
    named = {}
    for folder in sorted(folders, key=lambda x: (x not in usual, x)):
        if _meaning(folder):
            key = folder.lower() if folder.lower() in usual else _meaning(folder)
            named.setdefault(key, folder)
    with_images = {key: folder for key, folder in named.items() if folder in filled}
    others = [x for x in filled if x not in named.values()]
    evaluated = any(key != "train" for key in with_images)
    divided = bool(with_images) and (not others or ("train" in with_images and evaluated))
    if not divided:
        if split != "train" or (named and not with_images and not others and not right):
            raise NoSplit("no such split")
        return "", False
    keys = [key for key in usual if key in with_images]
    same = [key for key in keys if key == split or with_images[key] == split]
    same = same or [key for key in keys if _meaning(with_images[key]) == _meaning(split)]
    if not same:
        raise NoSplit("no such split")
    return with_images[same[0]], bool(others) or right


def _read_folder(path, split):
    names = [x for x in sorted(os.listdir(path)) if not x.startswith(".")]
    folders = [x for x in names if _kind(path, x) == "folder"]
    right = any(_kind(path, x) == "file" and _extension(x) in IMAGES for x in names)
    filled = [x for x in folders if _walk(os.path.join(path, x))[0]]
    folder, left_out = choose_split(split, folders, filled, right)
    root = os.path.join(path, folder) if folder else path
    images, others, skipped = _walk(root)
    if not images:
        raise Refused("no images")
    records = []
    for name in sorted(images):
        with open(os.path.join(root, name), "rb") as file:
            data = file.read()
        records.append(Record(os.path.join(root, name), data, name.split("/")[0] if "/" in name else None))
    classes = sorted({record.label for record in records if record.label is not None})
    return Listing(records, classes, others, skipped, left_out=left_out)


def _walk(root):
    """(names of images below a folder, others, skipped); no folder twice, the first in order of names."""
    images, others, skipped, seen = [], Counter(), Counter(), set()

    def visit(prefix):
        folder = os.path.join(root, prefix)
        if os.path.realpath(folder) in seen:
            skipped[TWICE] += 1
            return
        seen.add(os.path.realpath(folder))
        names = [x for x in sorted(os.listdir(folder)) if not x.startswith(".")]
        if "config.json" in names and "metrics.jsonl" in names:
            if prefix:
                skipped[RUN] += 1
                return
            if "pictures" in names:
                skipped[RUN] += 1
                names.remove("pictures")
        for name in names:
            kind = _kind(folder, name)
            if kind == "file" and _extension(name) in IMAGES:
                images.append(prefix + name)
            elif kind == "file":
                others[_extension(name)] += 1
            elif kind != "folder":
                skipped[kind] += 1
        for name in names:
            if _kind(folder, name) == "folder":
                visit(prefix + name + "/")

    visit("")
    return images, others, skipped


def _read_zip(path, split):
    members = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            hidden = any(part.startswith(".") for part in name.split("/"))
            if not hidden and name.split("/")[0] != "__MACOSX":
                members[name] = archive.read(name)

    def folders_in(root):
        inner = [x[len(root) :] for x in members if x.startswith(root)]
        return sorted({x.split("/")[0] for x in inner if "/" in x})

    root = ""
    while len(folders_in(root)) == 1 and not [
        x for x in members if x.startswith(root) and "/" not in x[len(root) :] and x != root
    ]:
        inner = folders_in(root)[0]
        if _meaning(inner) or not folders_in(f"{root}{inner}/"):
            break
        root += f"{inner}/"
    images = [x[len(root) :] for x in members if x.startswith(root) and _extension(x) in IMAGES]
    filled = sorted({x.split("/")[0] for x in images if "/" in x})
    folder, left_out = choose_split(split, folders_in(root), filled, any("/" not in x for x in images))
    root += f"{folder}/" if folder else ""
    records, others = [], Counter()
    for name in sorted(members):
        inner = name[len(root) :]
        if not name.startswith(root) or name.endswith("/"):
            continue
        if _extension(name) not in IMAGES:
            others[_extension(name.split("/")[-1])] += 1
            continue
        label = inner.split("/")[0] if "/" in inner else None
        records.append(Record(f"{path}/{name}", members[name], label))
    if not records:
        raise Refused("no images")
    classes = sorted({record.label for record in records if record.label is not None})
    return Listing(records, classes, others, Counter(), left_out=left_out)


def _read_list(path, split):
    if split != "train":
        raise NoSplit("a list has no splits")
    with open(path, "rb") as file:
        content = file.read()
    if content.startswith(b"\xef\xbb\xbf"):
        content = content[3:]
    records, others, missing = [], Counter(), 0
    for line in content.split(b"\n"):
        line = line.rstrip(b"\r")
        if not line.strip() or line.startswith(b"#"):
            continue
        name, _, label = (os.fsdecode(x) for x in line.partition(b"\t"))
        file = os.path.join(os.path.dirname(path), name)
        if _kind("", file) != "file":
            missing += 1
        elif _extension(os.path.basename(name)) not in IMAGES:
            others[_extension(os.path.basename(name))] += 1
        else:
            with open(file, "rb") as opened:
                records.append(Record(file, opened.read(), label.strip() or None))
    if not records:
        raise Refused("no images")
    classes = sorted({record.label for record in records if record.label is not None})
    return Listing(records, classes, others, Counter(), missing)


def _numeric(names):
    return sorted(names, key=int) if all(x.lstrip("-").isdigit() for x in names) else sorted(names)


def _shards(files, split, divided):
    """The files of a split by the word for it in their names."""
    words = {file: os.path.basename(file).split("-")[0] for file in files}
    if not divided or not any(map(_meaning, words.values())):
        if split != "train":
            raise NoSplit("no splits")
        return files
    exact = [file for file in files if words[file] == split]
    chosen = exact or [file for file in files if _meaning(words[file]) == _meaning(split)]
    if not chosen:
        raise NoSplit("no such split")
    return chosen


def _read_tar(files, split, divided=True):
    samples = []
    for path in _shards(files, split, divided):
        before = None
        with tarfile.open(path) as archive:
            for member in archive:
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                key = f"{path}/{folder}/{stem}" if folder else f"{path}/{stem}"
                if key != before:
                    samples.append((key, {}))
                before = key
                samples[-1][1][extension.lower()] = archive.extractfile(member).read()
    records, texts = [], []
    for key, members in samples:
        kind = next((x for x in members if x in IMAGES), None)
        if kind is None:
            continue
        label = members["cls"].decode() if "cls" in members else None
        if "json" in members:
            found = json.loads(members["json"])
            label = str(found["label"] if "label" in found else found["cls"])
        texts.append(members["txt"].decode().strip() if "txt" in members else None)
        records.append(Record(key, members[kind], label))
    if not records:
        raise Refused("no images")
    if all(record.label is None for record in records) and 2 * len(set(texts)) <= len(texts):
        records = [record._replace(label=text) for record, text in zip(records, texts, strict=True)]
    return Listing(records, _numeric({x.label for x in records} - {None}), Counter(), Counter())


def _read_parquet(files, split):
    from pyarrow import parquet

    records = []
    for path in _shards(files, split, divided=True):
        for number, row in enumerate(parquet.read_table(path).to_pylist()):
            image, name = row["image"], f"{path}[{number}]"
            if isinstance(image, dict):
                image, name = image["bytes"], f"{image['path']} [{name}]"
            label = None if row.get("label") is None else str(row["label"])
            records.append(Record(name, image, label))
    return Listing(records, _numeric({x.label for x in records} - {None}), Counter(), Counter())
