"""The Grain graph: shuffle, repeat, decode, crop and augment, pick this process's rows, batch.

The stream is one endless sequence of records, fixed by the seed: position p of it is always the
same record with the same crop, whoever reads it. So the number of records consumed is the whole
state: nothing else has to be saved, and processes and workers can come and go between runs.
"""

import contextlib
import functools
import weakref

import grain
import numpy as np
from absl import flags

from fastmim_jax.data.augment import random_crop_box, resize_crop
from fastmim_jax.data.decode import DecodeError, read_image
from fastmim_jax.data.workers import init_worker, start_shielded
from fastmim_jax.errors import UserError

TRIES = 64  # successors looked at in place of a record that cannot be decoded
_CHUNK = 64  # rows handled as one piece: few enough to start soon, many enough to be cheap to pass


def pick_workers(cpu_count):
    """Default number of worker processes: none on a small machine, where threads do better."""
    return 0 if cpu_count <= 4 else min(16, max(1, round(cpu_count / 3)))


def make_loader(
    source,
    *,
    image_size,
    channels,
    batch_size,
    seed,
    start=0,
    rows=None,
    workers=0,
    threads=4,
    scale=(0.2, 1.0),
    ratio=(3 / 4, 4 / 3),
    shuffle=True,
    augment=None,
    repeats=1,
):
    """Stream batches of random crops, for ever.

    Args:
      source: see sources.py.
      image_size: (H, W) of a crop.
      channels: C, see decode.decode.
      batch_size: of the global batch, over all processes.
      seed: integer >= 0; fixes order, crops and flips.
      start: records of the global stream that are already consumed, any number.
      rows: ascending positions inside the global batch that this process feeds; None for all.
      workers: processes that decode; 0 decodes in this one.
      threads: that decode, in each worker or here.
      scale, ratio: see augment.random_crop_box.
      shuffle: a new permutation each epoch; False keeps the order of the source.
      augment: (crop (H, W, C) uint8, rng: numpy Generator) -> the same shape, uint8; picklable. It
        draws from the record's own numbers, after the flip and the crop. None: nothing.
      repeats: repeated augmentation (arXiv 1901.09335): each record of the order stands this many
        times in a row, each time with its own crop, flip and augmentation. `start` still counts
        positions of the stream, and len(source) of them hold 1 / repeats of the records.

    Returns:
      Loader, an iterator over dicts of numpy arrays, with b = len(rows):
        image (b, H, W, C) uint8;
        flip (b,) bool, whether to mirror it (left to the device);
        index (b,) int64, the record that was due;
        bad (b,) int32, how many records from `index` on could not be decoded, so that record
          (index + bad) % len(source) was used instead. When TRIES in a row fail, `image` is 0;
        label (b,) int32 of the record used, -1 where there is none.

    Raises:
      UserError: an empty source, or numbers that make no stream.
    """
    rows = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
    check(source, batch_size, rows, seed=seed, start=start, repeats=repeats)
    # Derived here and not by Grain, whose own derivation changes with the position in the graph.
    order_seed, crop_seed = map(int, np.random.SeedSequence(seed).generate_state(2))
    stream = grain.MapDataset.range(len(source))
    if shuffle:
        stream = stream.shuffle(seed=order_seed)
    crop = _Crop(source, tuple(image_size), channels, tuple(scale), tuple(ratio), augment)
    stream = _InARow(stream.repeat(), repeats).random_map(crop, seed=crop_seed)
    chunks = in_chunks(stream, batch_size, rows, start=start, workers=workers, threads=threads)
    return Loader(*chunks)


def in_chunks(stream, batch_size, rows, *, start=0, workers=0, threads=4):
    """Make a global stream of records this process's share of it, read in parallel.

    Args:
      stream: Grain MapDataset of dicts of arrays, one dict per record.
      batch_size, rows, start, workers, threads: see `make_loader`.

    Returns:
      (Grain IterDataset of pieces of a batch's rows, how many pieces make a batch)
    """
    stream = _PickRows(stream, start, batch_size, rows)
    chunk = _chunk_size(len(rows))
    ahead = max(threads, 2 * len(rows) // chunk)  # this process has the next batches in the making
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

    Raises RuntimeError from next() when a worker process died, or after the end.
    """

    def __init__(self, stream, chunks):
        if not flags.FLAGS.is_parsed():  # Grain asks absl, which refuses before flags are parsed
            flags.FLAGS.mark_as_parsed()
        self._chunks = chunks
        self._source = _Chunks(iter(stream))
        self._close = weakref.finalize(self, self._source.close)
        self._failure = None

    def __iter__(self):
        return self

    def __next__(self):
        if not self._close.alive:
            raise RuntimeError("this data loader is closed") from self._failure
        try:
            parts = [self._source.next() for _ in range(self._chunks)]
        except BaseException as error:  # the end: a retry would lose a chunk, or the whole epoch
            self._failure = error
            self.close()
            if "terminated unexpectedly" in str(error):
                raise RuntimeError(
                    f"A data worker process died ({error}) Most often the machine ran out of "
                    "memory: try fewer workers, `--config.run.workers=...`."
                ) from error
            raise
        # Copied even if there is one: workers hand out shared memory, which nobody should keep.
        return {key: np.concatenate([np.asarray(p[key]) for p in parts]) for key in parts[0]}

    def close(self):
        """End threads and worker processes; may be called again."""
        self._close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class _Chunks:
    """A Grain iterator that is started apart (see workers.py) and closed without leftovers."""

    def __init__(self, iterator):
        self._iterator = iterator
        self._first = start_shielded(functools.partial(next, iterator))

    def next(self):
        if self._first is None:
            return next(self._iterator)
        chunk = self._first.result()  # an interrupt while waiting leaves it in place
        self._first = None
        return chunk

    def close(self):
        iterator, first, self._iterator, self._first = self._iterator, self._first, None, None
        if first is not None:
            with contextlib.suppress(TimeoutError):
                first.exception(timeout=60)  # closing under a starting worker leaves it behind
        iterator.close()


class _Crop:
    """(index, rng) -> one record of the stream. Pickled into the workers, source included."""

    def __init__(self, source, size, channels, scale, ratio, augment):
        self.source, self.size, self.channels = source, size, channels
        self.scale, self.ratio, self.augment = scale, ratio, augment

    def __call__(self, index, rng):
        flip = rng.random() < 0.5
        image, bad = self._first_good(index)
        label = -1
        if image is None:
            crop = np.zeros((*self.size, self.channels), np.uint8)
        else:
            box = random_crop_box(rng, *image.shape[:2], self.scale, self.ratio)
            crop = resize_crop(image, box, self.size)
            if self.augment is not None:
                crop = self.augment(crop, rng)
            label = self.source.label((index + bad) % len(self.source))
        return {
            "image": crop,
            "flip": np.bool_(flip),
            "index": np.int64(index),
            "num_undecodable": np.int32(bad),
            "label": np.int32(label),
        }

    def _first_good(self, index):
        """-> (image or None, how many records were bad before it)."""
        count = len(self.source)
        tries = min(count, TRIES)
        for bad in range(tries):
            try:
                return read_image(self.source, (index + bad) % count, self.channels), bad
            except DecodeError:
                continue
        return None, tries


class _InARow(grain.MapDataset):
    """Each element of an endless stream, `times` times in a row."""

    def __init__(self, parent, times):
        super().__init__(parent)
        self._times = times

    def __len__(self):
        return len(self._parent)  # endless is sys.maxsize, which is not to be exceeded

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        return self._parent[index // self._times]


class _PickRows(grain.MapDataset):
    """Of a global stream in batches from `start` on, the elements in some rows of each batch."""

    def __init__(self, parent, start, batch_size, rows):
        super().__init__(parent)
        self._start, self._batch_size, self._rows = start, batch_size, [int(r) for r in rows]

    def __len__(self):
        return (len(self._parent) - self._start) // self._batch_size * len(self._rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        # The parent is asked by global position, on which its random numbers are keyed.
        step, row = divmod(index, len(self._rows))
        return self._parent[self._start + step * self._batch_size + self._rows[row]]


def _chunk_size(rows):
    """The largest divisor of `rows` up to _CHUNK; all rows where that would be a crumb."""
    best = max(size for size in range(1, min(rows, _CHUNK) + 1) if rows % size == 0)
    return best if best >= 8 else rows


def check(source, batch_size, rows, *, seed=0, start=0, repeats=1):
    """Raises UserError: an empty source, or numbers that make no stream; see `make_loader`."""
    if not len(source):
        raise UserError(f"{source!r} holds no records; expected at least one.")
    if batch_size < 1 or seed < 0 or start < 0:
        raise UserError(
            f"batch_size={batch_size}, seed={seed}, start={start}: expected a batch of at least 1 "
            "and a seed and start of at least 0."
        )
    if repeats < 1:
        raise UserError(
            f"repeats={repeats}: expected each record at least once: "
            "`--config.augment.repeated_augmentation=1`."
        )
    inside = len(rows) and rows[0] >= 0 and rows[-1] < batch_size
    if not inside or (np.diff(rows) <= 0).any():
        raise UserError(
            f"rows={rows.tolist()[:8]}... of a global batch of {batch_size}: expected ascending "
            f"positions from 0 to {batch_size - 1}, at least one per process."
        )
