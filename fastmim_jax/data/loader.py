"""The Grain pipeline of training: shuffle, repeat, decode, crop and augment, select rows, batch.

The stream is one endless sequence of records that the seed determines: position p is always the same
record with the same crop, in any process or worker. So the number of records consumed is the only
state to save, and a run can resume with other numbers of processes and workers.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable, Sequence

import grain
import numpy as np
from absl import flags

from fastmim_jax.data.augment import random_crop_box, resize_crop
from fastmim_jax.data.decode import DecodeError, read_image
from fastmim_jax.data.sources import Source
from fastmim_jax.data.workers import init_worker, start_shielded
from fastmim_jax.errors import UserError

MAX_TRIES = 64  # records tried, from one that cannot be decoded on, before its image is left empty
_MAX_CHUNK = 64  # rows per chunk: few for a quick start, many for cheap transfer between processes
_MIN_CHUNK = 8


def pick_workers(cpu_count: int) -> int:
    """Return the default number of worker processes: 0 with few cores, where threads are faster."""
    return 0 if cpu_count <= 4 else min(16, max(1, round(cpu_count / 3)))


def make_loader(
    source: Source,
    *,
    image_size: tuple[int, int],
    channels: int,
    batch_size: int,
    seed: int,
    start: int = 0,
    rows: np.ndarray | Sequence[int] | None = None,
    workers: int = 0,
    threads: int = 4,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    shuffle: bool = True,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    repeats: int = 1,
) -> "Loader":
    """Iterate over batches of random crops without end.

    Args:
      source: see `fastmim_jax.data.sources.Source`.
      image_size: (H, W) of a crop.
      channels: C, see `decode`.
      batch_size: size of the global batch, over all processes.
      seed: integer >= 0 that determines order, crops, flips and augmentation.
      start: number of records of the global stream that are already consumed.
      rows: ascending positions inside the global batch that this process feeds; None for all.
      workers: number of processes that decode; 0 decodes in this process.
      threads: number of threads that decode, per worker.
      scale, ratio: see `random_crop_box`.
      shuffle: True draws a new permutation each epoch; False reads in the order of the source.
      augment: (crop (H, W, C) uint8, rng: numpy Generator) -> the same shape, uint8; picklable. It
        draws from the record's own generator, after the flip and the crop. None: no augmentation.
      repeats: repeated augmentation (arXiv 1901.09335): each record of the order appears this many
        times in a row, each time with its own crop, flip and augmentation. `start` still counts
        positions of the stream, and len(source) of them hold 1 / repeats of the records.

    Returns:
      Loader, an iterator over dicts of numpy arrays, with b = len(rows):
        image (b, H, W, C) uint8;
        flip (b,) bool, whether the device should mirror the image;
        index (b,) int64, the record at this position of the stream;
        num_undecodable (b,) int32, how many records from `index` on could not be decoded; record
          (index + num_undecodable) % len(source) was used. After MAX_TRIES of them, `image` is 0;
        label (b,) int32 of the record used, -1 where it has none.

    Raises:
      UserError: an empty source.
      ValueError: an argument out of range.
    """
    rows = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
    check_stream(source, batch_size, rows, seed=seed, start=start, repeats=repeats)
    # Derived here: Grain's own derivation depends on the position in the pipeline.
    order_seed, crop_seed = map(int, np.random.SeedSequence(seed).generate_state(2))
    stream = grain.MapDataset.range(len(source))
    if shuffle:
        stream = stream.shuffle(seed=order_seed)
    crop = _RandomCrop(source, tuple(image_size), channels, tuple(scale), tuple(ratio), augment)
    stream = _RepeatEach(stream.repeat(), repeats).random_map(crop, seed=crop_seed)
    chunks = read_in_chunks(stream, batch_size, rows, start=start, workers=workers, threads=threads)
    return Loader(*chunks)


def read_in_chunks(
    stream: grain.MapDataset,
    batch_size: int,
    rows: np.ndarray,
    *,
    start: int = 0,
    workers: int = 0,
    threads: int = 4,
) -> tuple[grain.IterDataset, int]:
    """Read this process's share of a global stream of records in parallel.

    Args:
      stream: Grain MapDataset of dicts of arrays, one dict per record.
      batch_size, rows, start, workers, threads: see `make_loader`.

    Returns:
      (Grain IterDataset of chunks of a batch's rows, number of chunks per batch)
    """
    stream = _SelectRows(stream, start, batch_size, rows)
    chunk = _chunk_size(len(rows))
    ahead = max(threads, 2 * len(rows) // chunk)  # chunks of the next 2 batches
    stream = stream.batch(chunk, drop_remainder=True)
    workers = min(workers, len(stream))
    stream = stream.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads if workers else ahead)
    )
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        stream = stream.mp_prefetch(options, worker_init_fn=init_worker)
    return stream, len(rows) // chunk


class Loader:
    """Iterator over batches; close it, or use it in a `with`, to end its threads and workers.

    next() raises RuntimeError if a worker process died, or after close().
    """

    def __init__(self, stream: grain.IterDataset, chunks: int):
        """Args:
        stream, chunks: see `read_in_chunks`.
        """
        if not flags.FLAGS.is_parsed():  # Grain reads absl flags, which raises before they are parsed
            flags.FLAGS.mark_as_parsed()
        self._chunks = chunks
        self._reader = _ChunkReader(iter(stream))
        self._close = weakref.finalize(self, self._reader.close)
        self._failure = None

    def __iter__(self):
        return self

    def __next__(self):
        if not self._close.alive:
            raise RuntimeError("this data loader is closed") from self._failure
        try:
            chunks = [self._reader.next() for _ in range(self._chunks)]
        except BaseException as error:  # no retry: chunks that were read already would be lost
            self._failure = error
            self.close()
            if "terminated unexpectedly" in str(error):
                raise RuntimeError(
                    f"A data worker process died ({error}); most often the machine ran out of "
                    "memory: type --config.run.workers=N with fewer workers."
                ) from error
            raise
        # Always a copy, even of a single chunk: the workers' shared memory is reused.
        return {key: np.concatenate([np.asarray(chunk[key]) for chunk in chunks]) for key in chunks[0]}

    def close(self):
        """End threads and worker processes; may be called repeatedly."""
        self._close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class _ChunkReader:
    """A Grain iterator that starts with signals blocked (see workers.py) and closes without orphans."""

    def __init__(self, iterator):
        self._iterator = iterator
        self._first = start_shielded(functools.partial(next, iterator))

    def next(self):
        if self._first is None:
            return next(self._iterator)
        chunk = self._first.result()  # after an interrupt here, the next call waits again
        self._first = None
        return chunk

    def close(self):
        iterator, first, self._iterator, self._first = self._iterator, self._first, None, None
        if first is not None:
            with contextlib.suppress(TimeoutError):
                first.exception(timeout=60)  # closing before the workers have started would orphan them
        iterator.close()


class _RandomCrop:
    """Map (index, rng) to one record of the stream; pickled to the workers with the source."""

    def __init__(self, source, size, channels, scale, ratio, augment):
        self.source, self.size, self.channels = source, size, channels
        self.scale, self.ratio, self.augment = scale, ratio, augment

    def __call__(self, index, rng):
        flip = rng.random() < 0.5
        image, num_undecodable = self._first_decodable(index)
        label = -1
        if image is None:
            crop = np.zeros((*self.size, self.channels), np.uint8)
        else:
            box = random_crop_box(rng, *image.shape[:2], self.scale, self.ratio)
            crop = resize_crop(image, box, self.size)
            if self.augment is not None:
                crop = self.augment(crop, rng)
            label = self.source.label((index + num_undecodable) % len(self.source))
        return {
            "image": crop,
            "flip": np.bool_(flip),
            "index": np.int64(index),
            "num_undecodable": np.int32(num_undecodable),
            "label": np.int32(label),
        }

    def _first_decodable(self, index):
        """-> (image or None, number of undecodable records before it)."""
        count = len(self.source)
        tries = min(count, MAX_TRIES)
        for skipped in range(tries):
            try:
                return read_image(self.source, (index + skipped) % count, self.channels), skipped
            except DecodeError:
                continue
        return None, tries


class _RepeatEach(grain.MapDataset):
    """Each element of an endless stream, `repeats` times in a row."""

    def __init__(self, parent, repeats):
        super().__init__(parent)
        self._repeats = repeats

    def __len__(self):
        return len(self._parent)  # sys.maxsize of an endless stream, the largest possible length

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        return self._parent[index // self._repeats]


class _SelectRows(grain.MapDataset):
    """The elements in some rows of each batch of a global stream, from position `start` on."""

    def __init__(self, parent, start, batch_size, rows):
        super().__init__(parent)
        self._start, self._batch_size, self._rows = start, batch_size, [int(r) for r in rows]

    def __len__(self):
        return (len(self._parent) - self._start) // self._batch_size * len(self._rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        # Random numbers are keyed on the global position of the parent.
        step, row = divmod(index, len(self._rows))
        return self._parent[self._start + step * self._batch_size + self._rows[row]]


def _chunk_size(rows):
    """-> the largest divisor of `rows` up to _MAX_CHUNK; all rows if it is below _MIN_CHUNK."""
    best = max(size for size in range(1, min(rows, _MAX_CHUNK) + 1) if rows % size == 0)
    return best if best >= _MIN_CHUNK else rows


def check_stream(
    source: Source, batch_size: int, rows: np.ndarray, *, seed: int = 0, start: int = 0, repeats: int = 1
) -> None:
    """Check the arguments of `make_loader`.

    Raises:
      UserError: an empty source.
      ValueError: an argument out of range.
    """
    if not len(source):
        raise UserError(f"{source!r} holds no records; expected at least one.")
    if batch_size < 1 or seed < 0 or start < 0 or repeats < 1:
        raise ValueError(
            f"batch_size={batch_size}, seed={seed}, start={start}, repeats={repeats}: expected batch_size "
            "and repeats of at least 1, seed and start of at least 0"
        )
    inside = len(rows) and rows[0] >= 0 and rows[-1] < batch_size
    if not inside or (np.diff(rows) <= 0).any():
        raise ValueError(
            f"rows={rows.tolist()[:8]}... of a global batch of {batch_size}: expected ascending "
            f"positions from 0 to {batch_size - 1}, at least one per process"
        )
