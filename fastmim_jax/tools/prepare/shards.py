"""Write the records of one shard; runs in worker processes."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastmim_jax.data.decode import DecodeError, decode, decode_values, read_record
from fastmim_jax.data.pillow_image import is_upright_jpeg
from fastmim_jax.data.records.encode import encode, shrink
from fastmim_jax.data.records.raw import RawImage
from fastmim_jax.data.records.record import StoredImage, pack
from fastmim_jax.data.sources import Source
from fastmim_jax.data.sources.joined import split_path
from fastmim_jax.data.sources.pread import stamp
from fastmim_jax.data.sources.riegeli import find_chunks
from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json, write_json
from fastmim_jax.tools.prepare.facts import ShardFacts
from fastmim_jax.tools.prepare.settings import Settings

MIN_RECORDS, MAX_SHARDS = 256, 512  # per shard; per split
Original = StoredImage | RawImage  # a record of the original data set
OPTIONS = "group_size:1,uncompressed"  # of ArrayRecord: random access to single records


class ShardTask(NamedTuple):
    """Records start to stop - 1 of a split, which become shard `number` of `shards`."""

    split: str
    number: int
    shards: int
    start: int
    stop: int

    @property
    def file(self) -> str:
        """Path of the shard inside the data set."""
        return f"{self.split}/{self.number:05}-of-{self.shards:05}.array_record"

    @property
    def facts_file(self) -> str:
        """Name of the file with its facts, until all shards are there."""
        return f"{self.split}-{self.number:05}.json"


def make_tasks(records: Mapping[str, int]) -> list[ShardTask]:
    """Divide {split: records} into shards: MIN_RECORDS each, or more where that makes over MAX_SHARDS."""
    tasks = []
    for split, total in records.items():
        size = max(MIN_RECORDS, math.ceil(total / MAX_SHARDS))
        count = math.ceil(total / size)
        tasks += [
            ShardTask(split, number, count, number * size, min(total, (number + 1) * size))
            for number in range(count)
        ]
    return tasks


class ShardWriter:
    """Read, shrink and encode the records of a shard, and write them; picklable.

    Args:
      sources: {split: source}.
      settings: of the preparation.
      folder: the data set; None only reads, and gives the facts without a file.
      unfinished: folder for temporary files and the facts of each shard.
    """

    def __init__(
        self, sources: Mapping[str, Source], settings: Settings, folder: str | None, unfinished: str | None
    ):
        self._sources, self._settings = sources, settings
        self._folder, self._unfinished = folder, unfinished
        self._roots = split_path(settings.source)

    def __call__(self, task: ShardTask, progress: Callable[[int], None]) -> ShardFacts:
        """Write a shard and its facts.

        Args:
          task: the shard.
          progress: called with the number of further records that were read.

        Raises:
          OSError: the file cannot be written, for example because the disk is full.
        """
        facts = ShardFacts()
        records = self._records(task, facts, progress)
        if self._folder is None or self._unfinished is None:
            for _ in records:
                pass
            return facts
        path = Path(self._folder, task.file)
        # The process number keeps a worker that outlives a killed run out of the way of the next run's.
        temporary = Path(self._unfinished, f"{task.split}-{task.number:05}.{os.getpid()}.tmp")
        try:
            _write(temporary, records)
            if facts.labels:
                facts.file, facts.bytes, facts.sha256 = (
                    task.file,
                    temporary.stat().st_size,
                    _sha256(temporary),
                )
                facts.chunks = find_chunks(stamp(temporary), len(facts.labels))
                path.parent.mkdir(exist_ok=True)
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        write_json(Path(self._unfinished, task.facts_file), dataclasses.asdict(facts), indent=None)
        return facts

    def _records(
        self, task: ShardTask, facts: ShardFacts, progress: Callable[[int], None]
    ) -> Iterable[bytes]:
        """Yield the packed records of a shard and add them to its facts."""
        source = self._sources[task.split]
        for index in range(task.start, task.stop):
            name = self._name(source, index)
            try:
                image, stored, copied = self._image(source, index)
            except DecodeError as error:
                facts.unreadable.append((name, _reason(error)))
            else:
                label = source.label(index)
                facts.add(image, label, name)
                facts.copied += copied
                yield pack(stored, image.shape, label, name)
            progress(1)

    def _image(self, source: Source, index: int) -> tuple[np.ndarray, StoredImage, bool]:
        """Return the shrunk image, what is stored of it, and whether that is the original file."""
        settings = self._settings
        data = read_record(source, index)
        original = _read_pixels(data, settings)
        image = shrink(original, settings.short_side)
        if (
            settings.layout == "jpeg"
            and image is original
            and isinstance(data, bytes)
            and is_upright_jpeg(data)
        ):
            return image, data, True
        if self._folder is None:
            return image, b"", False
        try:
            return image, encode(image, settings.layout, settings.quality or 0), False
        except (ValueError, OSError) as error:
            raise DecodeError(f"cannot be stored as {settings.layout}: {error}") from error

    def _name(self, source: Source, index: int) -> str:
        """Return the name of a record, without a local path; see `_relative`."""
        try:
            name = source.name(index)
        except Exception:  # the name may be stored inside a record that cannot be read
            return f"record {index}"
        return _relative(name, self._roots)


def _reason(error: DecodeError) -> str:
    """Return why a record cannot be read, in one line, without the key of a training config."""
    return " ".join(error.reason.split()).replace(" (--config.data.max_pixels)", "")


def _relative(name: str, roots: Sequence[str]) -> str:
    """Return a name relative to its data set, with the number of the data set if there are several.

    Of a list of images, whose folder counts, names outside of it keep their last folder.
    """
    for number, root in enumerate(roots, 1):
        folder = os.path.dirname(root) if os.path.isfile(root) and name.startswith(os.sep) else root
        for inside in (f"{root.rstrip(os.sep)}{os.sep}", f"{folder.rstrip(os.sep)}{os.sep}"):
            if name.startswith(inside):
                within = name.removeprefix(inside)
                return f"{number}/{within}" if len(roots) > 1 else within
    return os.sep.join(name.split(os.sep)[-2:]) if os.path.isabs(name) else name


def load_facts(path: Path) -> ShardFacts | None:
    """Return the facts of a shard, or None if it is not finished, or they are damaged."""
    try:
        facts = ShardFacts(**read_json(path, dict, "the facts of a shard"))
    except (UserError, TypeError):
        return None
    kinds = {
        field.name: type(getattr(ShardFacts(), field.name)) for field in dataclasses.fields(ShardFacts)
    }
    return facts if all(isinstance(getattr(facts, name), kind) for name, kind in kinds.items()) else None


def _read_pixels(data: Original, settings: Settings) -> np.ndarray:
    """Return (H, W, C) in the dtype of the data set."""
    if settings.dtype == "uint8":
        return decode(data, settings.channels, settings.rules)
    values = decode_values(data, settings.channels, settings.rules)
    if values.dtype != settings.dtype:
        raise DecodeError(f"has values of {values.dtype}, expected {settings.dtype} as in the first image")
    return values


def _write(path: Path, records: Iterable[bytes]) -> None:
    """Write an ArrayRecord file and check that all of it is on the disk.

    Raises:
      OSError: it is not.
    """
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    try:
        writer = ArrayRecordWriter(str(path), OPTIONS)
        written = 0
        try:
            for record in records:
                writer.write(record)
                written += 1
        finally:
            writer.close()
        if not written:
            return
        reader = ArrayRecordReader(str(path))  # an incomplete file has no index, and so 0 records
        found = reader.num_records()
        reader.close()
    except RuntimeError as error:  # of the C++ library, for all errors of the file system
        raise OSError(str(error)) from error
    if found != written:
        raise OSError(f"{path} holds {found:,} records after {written:,} were written")
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
