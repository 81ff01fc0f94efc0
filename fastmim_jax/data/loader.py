"""The stream of training: shuffle, repeat, select rows, then read them chunk by chunk.

The stream is one endless sequence of records that the seed determines: position p is always the same
record with the same crop, in any process or worker. So the number of records consumed is the only
state to save, and a run can resume with other numbers of processes and workers.
"""

import sys
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from fastmim_jax.data.batch_memory import Arrays, Fields, LocalBatches, SharedBatches
from fastmim_jax.data.chunk_readers import SENT_AHEAD, ChunkReader, ThreadReader, WorkerReader
from fastmim_jax.data.crops import Order, RandomCrops
from fastmim_jax.data.decode import DEFAULT_RULES
from fastmim_jax.data.limits import DecodeRules
from fastmim_jax.data.sources import Source
from fastmim_jax.errors import UserError

_MAX_CHUNK = 64  # rows per chunk: few for a quick start, many for cheap transfer between processes
_MIN_CHUNK = 8


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
    max_worker_restarts: int = 3,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    shuffle: bool = True,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    views_per_image: int = 1,
    views_per_crop: int = 1,
    layout: str = "rgb",
    canvas: tuple[int, int] | None = None,
    rules: DecodeRules = DEFAULT_RULES,
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
      max_worker_restarts: worker processes that are replaced when they die; the stream stays the same.
      scale, ratio: see `random_crop_box`.
      shuffle: True draws a new permutation each epoch; False reads in the order of the source.
      augment: (crop (H, W, C) uint8, rng: numpy Generator) -> the same shape, uint8; picklable. It
        draws from the record's own generator, after the flip and the crop. None: no augmentation.
      views_per_image: repeated augmentation (arXiv 1901.09335): each record of the order appears this
        many times in a row, each time with its own crop, flip and augmentation, and is decoded once.
        `start` still counts positions of the stream: an epoch is len(source) views, which hold
        1 / views_per_image of the records.
      views_per_crop: views in a row that have the same crop, flip and augmentation; it divides
        `views_per_image`, `batch_size` and `start`.
      layout: "rgb", or "yuv420" for a source of `Yuv420`: crops are packed planes, see `planes`.
      canvas: (H, W) that holds every image: images are padded to it instead of cropped, and come with the
        boxes for `device_crop`; then there is no `augment`. None: crops.
      rules: see `decode`.

    Returns:
      Loader, an iterator over dicts of numpy arrays, with b = len(rows):
        image (b, H, W, C) of `rules.pixel_dtype`, or (b, 3 H / 2, W) uint8 for "yuv420"; with `canvas` its
          sides, made even;
        box (b, 4) int32, only with `canvas`: left, top, width, height of the crop;
        flip (b,) bool, whether the device should mirror the image;
        index (b,) int64, the record at this position of the stream;
        num_undecodable (b,) int32, how many of `replacements.candidates(source, index)` could not be
          decoded; the one after them was used. After MAX_TRIES of them, `image` is 0;
        doubtful (b,) bool, whether the decoder had a message on it, such as of a damaged file;
        label (b,) int32 of the record used, -1 where it has none;
        value_counts (b, 6) float64, only for images of more than 8 bits, see `clipped`.

    Raises:
      UserError: an empty source.
      ValueError: an argument out of range.
    """
    rows = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
    check_stream(source, batch_size, rows, seed=seed, start=start)
    _check_views(views_per_image, views_per_crop, batch_size, start)
    if canvas is not None and augment is not None:
        raise ValueError("augment needs crops on the host, expected canvas=None")
    # Derived here: Grain's own derivation depends on the position in the pipeline.
    order_seed, crop_seed = map(int, np.random.SeedSequence(seed).generate_state(2))
    crops = RandomCrops(
        source,
        Order(len(source), order_seed if shuffle else None),
        size=image_size,
        channels=channels,
        seed=crop_seed,
        scale=scale,
        ratio=ratio,
        augment=augment,
        views_per_image=views_per_image,
        views_per_crop=views_per_crop,
        layout=layout,
        canvas=canvas,
        rules=rules,
    )
    chunks = read_in_chunks(
        crops,
        batch_size,
        rows,
        start=start,
        workers=workers,
        threads=threads,
        max_worker_restarts=max_worker_restarts,
    )
    return Loader(chunks)


def read_in_chunks(
    read: "RowReader",
    batch_size: int,
    rows: np.ndarray,
    *,
    start: int = 0,
    workers: int = 0,
    threads: int = 4,
    max_worker_restarts: int = 3,
    batches: int | None = None,
) -> "Chunks":
    """Read this process's share of a global stream of records in parallel.

    Args:
      read: fills the rows of a chunk; picklable.
      batch_size, rows, start, workers, threads, max_worker_restarts: see `make_loader`.
      batches: length of the stream; None for an endless one.
    """
    size = _chunk_size(len(rows))
    chunks = len(rows) // size
    if batches is None:
        batches = (sys.maxsize - start) // batch_size  # positions are machine integers
    workers = min(workers, batches * chunks)
    memory: LocalBatches | SharedBatches
    if workers:
        memory = SharedBatches(read.fields, chunks, size, slots=workers * (threads + SENT_AHEAD + 1))
    else:
        memory = LocalBatches(read.fields, chunks, size)
    read_chunk = _ReadChunk(read, memory, start, batch_size, rows.reshape(chunks, size))
    reader: ChunkReader
    if workers:
        reader = WorkerReader(read_chunk, batches * chunks, workers, threads, max_worker_restarts)
    else:
        ahead = max(threads, 2 * chunks)  # chunks of the next 2 batches
        reader = ThreadReader(read_chunk, batches * chunks, threads, ahead)
    return Chunks(reader, memory, chunks)


class RowReader(Protocol):
    """Fills rows of batches.

    Attributes:
      fields: name -> (shape of a row, dtype).
    """

    @property
    def fields(self) -> Fields: ...

    def __call__(self, positions: Sequence[int], arrays: Arrays) -> None:
        """Write the rows of ascending positions of the stream to arrays with a row per position."""


class Chunks(NamedTuple):
    """A stream of batches in chunks.

    Attributes:
      reader: of the chunks 0, 1, ..., each of which it writes to `memory`.
      per_batch: number of chunks of a batch.
    """

    reader: ChunkReader
    memory: LocalBatches | SharedBatches
    per_batch: int


class _ReadChunk:
    """Map the number of a chunk to itself, after writing it to memory."""

    def __init__(self, read, memory, start, batch_size, rows):
        self._read, self._memory, self._start, self._batch_size = read, memory, start, batch_size
        self._rows = rows.tolist()  # of the chunks of a batch

    def __call__(self, number):
        number = int(number)
        step, chunk = divmod(number, len(self._rows))
        first = self._start + step * self._batch_size
        self._read([first + row for row in self._rows[chunk]], self._memory.chunk(number))
        return number


class Loader:
    """Iterator over batches; close it, or use it in a `with`, to end its threads and workers.

    next() raises UserError if more worker processes died than are replaced, RuntimeError after close().
    """

    def __init__(self, chunks: Chunks):
        """Args:
        chunks: see `read_in_chunks`.
        """
        self._chunks, self._step = chunks, 0
        self._close = weakref.finalize(self, _close, chunks)
        self._failure = None

    def __iter__(self):
        return self

    def __next__(self):
        if not self._close.alive:
            raise RuntimeError("this data loader is closed") from self._failure
        reader, memory, _ = self._chunks
        batch = None
        try:
            for _ in range(self._chunks.per_batch):
                number = int(reader.next())
                batch = memory.batch(self._step)
                memory.receive(number)
        except BaseException as error:  # no retry: chunks that were read already would be lost
            self._failure = error
            self.close()
            raise
        self._step += 1
        return batch

    def close(self):
        """End threads and worker processes; may be called repeatedly."""
        self._close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def _close(chunks):
    chunks.memory.close()  # first: threads that wait for space in it do not end
    chunks.reader.close()


def _chunk_size(rows):
    """-> the largest divisor of `rows` up to _MAX_CHUNK; all rows if it is below _MIN_CHUNK."""
    best = max(size for size in range(1, min(rows, _MAX_CHUNK) + 1) if rows % size == 0)
    return best if best >= _MIN_CHUNK else rows


def _check_views(views_per_image, views_per_crop, batch_size, start):
    if views_per_image < 1 or views_per_crop < 1:
        seen = f"views_per_image={views_per_image}, views_per_crop={views_per_crop}"
        raise ValueError(f"{seen}, expected both of at least 1")
    if any(number % views_per_crop for number in (views_per_image, batch_size, start)):
        raise ValueError(
            f"views_per_crop={views_per_crop} does not divide views_per_image={views_per_image}, "
            f"batch_size={batch_size} and start={start}"
        )


def check_stream(
    source: Source, batch_size: int, rows: np.ndarray, *, seed: int = 0, start: int = 0
) -> None:
    """Check the arguments of `make_loader`.

    Raises:
      UserError: an empty source.
      ValueError: an argument out of range.
    """
    if not len(source):
        raise UserError(f"{source!r} holds no records; expected at least one.")
    if batch_size < 1 or seed < 0 or start < 0:
        raise ValueError(
            f"batch_size={batch_size}, seed={seed}, start={start}: expected a batch_size of at least 1, "
            "seed and start of at least 0"
        )
    inside = len(rows) and rows[0] >= 0 and rows[-1] < batch_size
    if not inside or (np.diff(rows) <= 0).any():
        raise ValueError(
            f"rows={rows.tolist()[:8]}... of a global batch of {batch_size}: expected ascending "
            f"positions from 0 to {batch_size - 1}, at least one per process"
        )
