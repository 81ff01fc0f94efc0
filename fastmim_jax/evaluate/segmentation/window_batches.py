"""Windows of images of any size in full batches: read ahead, computed together, given back image by image.

Every process takes every P-th image and computes on its own devices.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from fastmim_jax.data.masks import MaskedImage, MaskError
from fastmim_jax.data.masks.augment import fit
from fastmim_jax.evaluate.segmentation.windows import WindowPlan, cut_windows
from fastmim_jax.train.agreement import begin_unit
from fastmim_jax.train.peers import current_peers


class WindowedImage(NamedTuple):
    """An image with the outputs of its windows.

    record: its number. image: with its mask. plan: its n windows. outputs: tree of (n, ...) arrays.
    """

    record: int
    image: MaskedImage
    plan: WindowPlan
    outputs: Any


def map_windows(
    compute: Callable[[np.ndarray], Any],
    source: Any,
    records: Sequence[int] | np.ndarray,
    plan_of: Callable[[tuple[int, int]], WindowPlan],
    *,
    batch_size: int,
    threads: int,
    rounds: int | None = None,
) -> Iterator[WindowedImage | MaskError | None]:
    """Yield each record with the outputs of its windows, in order; a MaskError for one that cannot be read.

    Args:
      compute: (batch_size, h, w, C) windows, 0 in the rows that fill a batch -> tree of (batch_size, ...)
        arrays.
      source: images with masks.
      records: numbers of the records.
      plan_of: (H, W) of an image -> its windows.
      threads: that read.
      rounds: of the process with most records; a process with fewer yields None in the last.
    """
    queue = _Queue(compute, batch_size)
    for read in _read_ahead(source, records, plan_of, max(1, threads)):
        begin_unit()
        yield from queue.add(read)
    for _ in range(len(records), rounds or 0):
        begin_unit()
        yield None
    yield from queue.finish()


def own_records(records: Sequence[int] | np.ndarray) -> tuple[Sequence[int] | np.ndarray, int]:
    """Return the records of this process, every P-th, and the number of those of the first process."""
    process, processes = jax.process_index(), jax.process_count()
    return records[process::processes], -(-len(records) // processes)


def of_all_processes(name: str, value: Any) -> list[Any]:
    """Return the JSON values that all processes give, in their order, see `Peers.share`."""
    peers = current_peers()
    return [value] if peers is None else peers.share(name, value)


def _read_ahead(
    source: Any,
    records: Sequence[int] | np.ndarray,
    plan_of: Callable[[tuple[int, int]], WindowPlan],
    threads: int,
) -> Iterator[tuple[int, MaskedImage, WindowPlan, np.ndarray] | MaskError]:
    """Yield (record, image, plan, windows) of each record, or a MaskError, read by threads."""

    def read(index: int) -> Any:
        try:
            image = source.read(index)
        except MaskError as error:
            return error
        plan = plan_of(image.mask.shape)
        pixels, _ = fit(image.image, image.mask, plan.scaled)
        return index, image, plan, cut_windows(pixels, plan)

    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(read, int(index)) for index in records[:threads]]
        for position in range(len(records)):
            ready = waiting.pop(0).result()
            following = records[position + threads : position + threads + 1]
            waiting += [pool.submit(read, int(index)) for index in following]
            yield ready


class _Queue:
    """Windows of several images in full batches; images come out in order, when theirs are done."""

    def __init__(self, compute: Callable[[np.ndarray], Any], batch_size: int):
        self._compute_batch, self._batch_size = compute, batch_size
        self._images: list[Any] = []  # (record, image, plan) or MaskError, waiting
        self._windows: list[np.ndarray] = []  # that no outputs were computed of
        self._outputs: list[Any] = []  # of windows of the images waiting, a tree for each

    def add(self, read: Any) -> Iterator[WindowedImage | MaskError]:
        """Add an image, and yield those that are done."""
        if isinstance(read, MaskError):
            self._images.append(read)
        else:
            *facts, windows = read
            self._images.append(facts)
            self._windows += list(windows)
        while len(self._windows) >= self._batch_size:
            self._compute()
        yield from self._done()

    def finish(self) -> Iterator[WindowedImage | MaskError]:
        """Yield the images that are left."""
        while self._windows:
            self._compute()
        yield from self._done()

    def _compute(self) -> None:
        size = self._batch_size
        batch, self._windows = self._windows[:size], self._windows[size:]
        padded = np.zeros((size, *batch[0].shape), batch[0].dtype)
        padded[: len(batch)] = batch
        outputs = jax.tree.map(np.asarray, self._compute_batch(padded))
        self._outputs += [_row(outputs, row) for row in range(len(batch))]

    def _done(self) -> Iterator[WindowedImage | MaskError]:
        while self._images:
            first = self._images[0]
            if isinstance(first, MaskError):
                yield self._images.pop(0)
                continue
            record, image, plan = first
            count = len(plan.starts)
            if len(self._outputs) < count:
                return
            self._images.pop(0)
            rows, self._outputs = self._outputs[:count], self._outputs[count:]
            outputs = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
            yield WindowedImage(record, image, plan, outputs)


def _row(tree: Any, row: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[row], tree)
