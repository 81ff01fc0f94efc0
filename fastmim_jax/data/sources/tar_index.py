"""Index of the samples in a webdataset shard, made once from the headers of the tar file."""

import contextlib
import hashlib
import json
import logging
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from fastmim_jax.data.sources.base import refuse_file
from fastmim_jax.data.sources.listing import is_image
from fastmim_jax.data.sources.pread import FileStamp, stamp
from fastmim_jax.errors import UserError
from fastmim_jax.io import atomic_write

_LOG = logging.getLogger("fastmim_jax.data")
_VERSION = 1  # of the files written here
_JSON_KEYS = (
    "class_name",
    "label_name",
    "label",
    "class",
    "cls",
    "category",
)  # the first text, else number
_LONGEST = 100  # characters of a class name
_LABELS = ("cls", "json", "txt")  # extensions, in order of preference


class Sample(NamedTuple):
    """A sample of a shard: files that follow one another and have one name up to its first dot.

    labels: class in its .cls, .json and .txt file, None where it has none.
    """

    name: str
    offset: int
    size: int
    labels: tuple[str | None, ...]


class TarIndex(NamedTuple):
    """The samples of a shard.

    samples: those with an image. others: {extensions, joined by "+": number} of the samples without.
    complete: whether the shard has the mark at the end of an archive.
    """

    samples: Sequence[Sample]
    others: dict[str, int]
    complete: bool


def open_indexes(paths: Sequence[str], described: str) -> tuple[list[FileStamp], list[TarIndex]]:
    """Return the stamps and indexes of shards; new indexes are stored.

    An index lies beside its shard, or in $XDG_CACHE_HOME/fastmim_jax/index (by default in ~/.cache) where
    the folder of the shard cannot be written to. It holds while the size and time of the shard do.

    Raises:
      UserError: a shard that is no tar file, or a truncated one.
    """
    stamps = [stamp(path) for path in paths]
    indexes = {file: index for file in stamps if (index := _load(file)) is not None}
    new = [file for file in stamps if file not in indexes]
    if new:
        _LOG.warning(f"{described}: indexing {len(new):,} of {len(paths):,} .tar files, once")
    for file in new:
        indexes[file] = build_index(file)
        _store(file, indexes[file])
    return stamps, [indexes[file] for file in stamps]


def build_index(file: FileStamp) -> TarIndex:
    """Return the index of a shard; raises as `open_indexes`."""
    samples: list[Sample] = []
    others: Counter[str] = Counter()
    try:
        with open(file.path, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for name, members in _groups(tar):
                image = next((m for ext, m in members if is_image(ext.rpartition(".")[2])), None)
                if image is None:
                    others["+".join(sorted({ext for ext, _ in members}))] += 1
                    continue
                content = {ext: member for ext, member in members if ext in _LABELS}
                labels = tuple(_label(kind, stream, content.get(kind)) for kind in _LABELS)
                samples.append(Sample(name, image.offset_data, image.size, labels))
            complete = _ends_with_mark(stream, tar.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        refuse_file(file, "tar", error, "an uncompressed one; `gunzip` it if it is compressed")
    return TarIndex(samples, dict(others), complete)


def _groups(tar: tarfile.TarFile) -> Iterator[tuple[str, list[tuple[str, tarfile.TarInfo]]]]:
    """Yield (name, [(extension, member)]) of each sample."""
    name: str | None = None
    members: list[tuple[str, tarfile.TarInfo]] = []
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # the list of all members would grow without end
        folder, slash, file = member.name.rpartition("/")
        stem, dot, ext = file.partition(".")
        if not member.isreg() or not stem or not dot:
            continue
        if folder + slash + stem != name:
            if name is not None:
                yield name, members
            name, members = folder + slash + stem, []
        members.append((ext.lower(), member))
    if name is not None:
        yield name, members


def _label(kind: str, stream: IO[bytes], member: tarfile.TarInfo | None) -> str | None:
    """-> the class in a file of a sample, or None."""
    if member is None:
        return None
    stream.seek(member.offset_data)
    text = stream.read(member.size).decode("utf-8", "replace").strip()
    if kind == "json":
        text = _json_label(text)
    return text if text and len(text) <= _LONGEST and "\n" not in text else None


def _json_label(text: str) -> str:
    try:
        content = json.loads(text)
    except ValueError:
        return ""
    if not isinstance(content, dict):
        content = {"label": content}
    values = [content[key] for key in _JSON_KEYS if key in content]
    texts = [value for value in values if isinstance(value, str)]
    numbers = [str(value) for value in values if isinstance(value, int) and not isinstance(value, bool)]
    return next(iter(texts + numbers), "")


def _ends_with_mark(stream: IO[bytes], offset: int) -> bool:
    """-> whether a block of zeros follows the last member; tarfile takes a damaged header for the end."""
    stream.seek(offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        raise tarfile.ReadError(f"no header at byte {offset:,}")
    return len(block) == tarfile.BLOCKSIZE


def _places(file: FileStamp) -> tuple[Path, Path]:
    """-> where the index of a shard may lie: beside it, and in the cache of the user."""
    path = Path(file.path)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    key = hashlib.sha256(os.fsencode(file.path)).hexdigest()[:16]
    cached = caches / "fastmim_jax" / "index" / f"{key}-{path.name}.npz"
    return path.with_name(f".{path.name}.index.npz"), cached


def _load(file: FileStamp) -> TarIndex | None:
    """-> the stored index of a shard in this state, or None."""
    for path in _places(file):
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError):
            with np.load(path, allow_pickle=False) as stored:
                if stored["state"].tolist() == [_VERSION, file.size, file.modified]:
                    return _decode(json.loads(stored["text"].tobytes()), stored["places"])
    return None


def _store(file: FileStamp, index: TarIndex) -> None:
    """Store the index of a shard in the first place that can be written to, if any."""
    text = {
        "names": [sample.name for sample in index.samples],
        "labels": [sample.labels for sample in index.samples],
        "others": index.others,
        "complete": index.complete,
    }
    arrays: dict[str, Any] = {
        "state": np.array([_VERSION, file.size, file.modified], np.int64),
        "text": np.frombuffer(json.dumps(text).encode(), np.uint8),
        "places": np.array([(s.offset, s.size) for s in index.samples], np.int64).reshape(-1, 2),
    }
    for path in _places(file):
        with contextlib.suppress(OSError, UserError):
            with atomic_write(path) as temporary, temporary.open("wb") as stream:
                np.savez(stream, **arrays)
            return


def _decode(text: dict[str, Any], places: np.ndarray) -> TarIndex:
    rows = zip(text["names"], places.tolist(), text["labels"], strict=True)
    samples = [Sample(name, offset, size, tuple(labels)) for name, (offset, size), labels in rows]
    return TarIndex(samples, text["others"], text["complete"])
