"""Random crops of the records of a stream, written into the arrays of a chunk of a batch."""

from collections.abc import Callable, Sequence

import grain
import numpy as np

from fastmim_jax.data.augment import random_crop_box, resize_crop
from fastmim_jax.data.batch_memory import Arrays, Fields
from fastmim_jax.data.canvas import canvas_shape, write_canvas
from fastmim_jax.data.clipped import FIELD, ROW_FIELD, as_row, counts_values
from fastmim_jax.data.decode import DEFAULT_RULES, decode, read_record
from fastmim_jax.data.decoder_messages import has_message
from fastmim_jax.data.limits import MAX_TRIES, DecodeError, DecodeRules
from fastmim_jax.data.planes import crop_shape, resize_crop_planes
from fastmim_jax.data.replacements import candidates
from fastmim_jax.data.sources import Source
from fastmim_jax.data.sources.record_rows import RecordRows, read_rows
from fastmim_jax.data.values import ValueCounts

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class Order:
    """The endless order of records: a new permutation each epoch, or that of the source.

    Its permutations are those of Grain's `MapDataset.shuffle`.
    """

    def __init__(self, records: int, seed: int | None):
        """Args:
        records: number of them, below 2**32.
        seed: below 2**32; None for the order of the source.
        """
        self._records, self._seed = records, seed

    def __call__(self, number: int) -> int:
        """Return the record of image `number` of the stream."""
        epoch, index = divmod(number, self._records)
        if self._seed is None:
            return index
        seed = (self._seed + epoch) % 2**32
        return grain.experimental.index_shuffle(index, max_index=self._records - 1, seed=seed, rounds=4)


class RandomCrops:
    """Read positions of an endless stream as random crops; pickled to the workers with the source.

    Position p has the record order(p // views_per_image), and random numbers that the first of its
    views_per_crop positions determines.
    """

    def __init__(
        self,
        source: Source,
        order: Callable[[int], int],
        *,
        size: tuple[int, int],
        channels: int,
        seed: int,
        scale: tuple[float, float],
        ratio: tuple[float, float],
        augment: Augment | None = None,
        views_per_image: int = 1,
        views_per_crop: int = 1,
        layout: str = "rgb",
        canvas: tuple[int, int] | None = None,
        rules: DecodeRules = DEFAULT_RULES,
    ):
        """Args:
        source: see `fastmim_jax.data.sources.Source`.
        order: number of a decoded image in the stream -> record.
        size: (H, W) of a crop.
        layout: "rgb", or "yuv420" for crops of a source of `Yuv420`, see `planes`.
        canvas: (H, W) that holds every image, to be cropped on the device; None to crop here.
        channels, seed, scale, ratio, augment, views_per_image, views_per_crop, rules: see `make_loader`.
        """
        self.source, self.order, self.size, self.channels = source, order, size, channels
        self.seed, self.scale, self.ratio, self.augment = seed, scale, ratio, augment
        self.views_per_image, self.views_per_crop = views_per_image, views_per_crop
        self.layout, self.canvas, self.rules = layout, canvas, rules
        self._bad: set[int] = set()  # records that failed, and are not tried again in place of others

    @property
    def fields(self) -> Fields:
        """Shape and dtype of a row of every array, see `make_loader`."""
        box: Fields = {}
        if self.canvas is None:
            shape = crop_shape(self.layout, self.size, self.channels)
        else:
            shape = canvas_shape(self.layout, self.canvas, self.channels)
            box = {"box": ((4,), np.dtype(np.int32))}
        return {
            "image": (shape, self.rules.pixel_dtype),
            **box,
            "flip": ((), np.dtype(bool)),
            "index": ((), np.dtype(np.int64)),
            "num_undecodable": ((), np.dtype(np.int32)),
            "doubtful": ((), np.dtype(bool)),
            "label": ((), np.dtype(np.int32)),
            **({FIELD: ROW_FIELD} if counts_values(self.rules) else {}),
        }

    def __call__(self, positions: Sequence[int], arrays: Arrays) -> None:
        """Write the rows of ascending positions; a record in a row of positions is decoded once."""
        label, index, num_undecodable = arrays["label"], arrays["index"], arrays["num_undecodable"]
        view = {name: arrays[name] for name in ("image", "flip", "box") if name in arrays}
        value_counts = arrays.get(FIELD)
        random, decoded, drawn_before = RandomOfPosition(self.seed), None, None
        opened = self._open(positions)
        views = self._draw_ahead(positions, opened, random)
        for row, position in enumerate(positions):
            number = position // self.views_per_image
            counts = ValueCounts()
            if decoded is None or decoded.number != number:
                decoded = opened.pop(number)
                if decoded.image is None:
                    decoded = self._decode(decoded)
                counts = decoded.counts
            if value_counts is not None:
                value_counts[row] = as_row(counts)
            drawn = position - position % self.views_per_crop
            if drawn == drawn_before:
                for array in view.values():
                    array[row] = array[row - 1]
            else:
                flip_and_box = views.get(drawn) or self._draw(decoded.image, random.at(drawn))
                while not self._write(decoded.image, flip_and_box, random.rng, view, row):
                    self._bad.add(decoded.index)
                    decoded = self._decode(decoded, decoded.skipped + 1)
                    flip_and_box = self._draw(decoded.image, random.at(drawn))
            drawn_before = drawn
            index[row], num_undecodable[row], label[row] = decoded.index, decoded.skipped, decoded.label
            arrays["doubtful"][row] = decoded.doubtful

    def _open(self, positions):
        """Return {number: _Decoded} of the images of positions; `image` is None unless it is read by rows.

        All records are opened, and their views drawn, before any is read: these loops run from the caches
        of the processor as long as no pixels come between, twice as fast.
        """
        numbers = dict.fromkeys(position // self.views_per_image for position in positions)
        opened = {
            number: _Decoded(number, int(self.order(number)), 0, None, -1, ValueCounts())
            for number in numbers
        }
        single = self.views_per_image == self.views_per_crop and self.canvas is None
        if single and not counts_values(self.rules):  # else all rows are needed
            for decoded in opened.values():
                decoded.image = self._rows(decoded.index)
                if decoded.image is not None:
                    decoded.label = self.source.label(decoded.index)
        return opened

    def _rows(self, index):
        """Return a record whose crops can be read by rows, or None."""
        rows = read_rows(self.source, index)
        return rows if rows is not None and (rows.layout == "raw" or self.layout == "yuv420") else None

    def _draw_ahead(self, positions, opened, random):
        """Return {position: (flip, box)} of opened images, unless `augment` draws more of each position."""
        views = {}
        for position in positions if self.augment is None else ():
            drawn = position - position % self.views_per_crop
            image = opened[position // self.views_per_image].image
            if image is not None and drawn not in views:
                views[drawn] = self._draw(image, random.at(drawn))
        return views

    def _draw(self, image, rng):
        """Return whether a view is mirrored, and its box."""
        flip = rng.random() < 0.5
        if image is None:
            return flip, (0, 0, *(self.canvas or self.size)[::-1])
        return flip, random_crop_box(rng, *image.shape[:2], self.scale, self.ratio)

    def _write(self, image, flip_and_box, rng, view, row):
        """Write a view of an image to a row of the arrays `view`; 0 without an image.

        Return False where the rows of the image cannot be read or decoded.
        """
        view["flip"][row], box = flip_and_box
        if isinstance(image, RecordRows):
            try:
                image, box = self._read_box(image, box)
            except DecodeError:
                return False
        if self.canvas is None:
            self._crop(image, box, rng, view["image"][row])
        else:
            write_canvas(image, view["image"][row])
            view["box"][row] = box
        return True

    def _crop(self, image, box, rng, out):
        """Write the crop of a box to `out`, augmented; 0 without an image."""
        if image is None:
            out[...] = 0
            return
        if self.layout == "yuv420":
            resize_crop_planes(image, box, out)
        else:
            resize_crop(image, box, self.size, out)
        if self.augment is not None:
            out[...] = self.augment(out, rng)

    def _decode(self, opened, first=0):
        """Return the first of `candidates` that can be decoded, from number `first` of them on."""
        index, tries = opened.index, min(len(self.source), MAX_TRIES)
        for skipped, used in enumerate(candidates(self.source, index, MAX_TRIES)):
            if skipped < first or (skipped and used in self._bad):
                continue
            counts = ValueCounts()
            try:
                image = self._read(used, counts)
            except DecodeError:
                self._bad.add(used)
                continue
            label, doubtful = self.source.label(used), isinstance(image, np.ndarray) and has_message()
            return _Decoded(opened.number, index, skipped, image, label, counts, doubtful)
        return _Decoded(opened.number, index, tries, None, -1, ValueCounts())

    def _read(self, index, counts):
        """Return an image as it is cropped, and add its values to `counts`."""
        rows = self._rows(index)
        if rows is not None:
            return self._read_box(rows, None, counts)[0]
        return self._to_pixels(read_record(self.source, index), counts)

    def _read_box(self, rows, box, counts=None):
        """Return the rows of a box, None for all, as they are cropped, and the box in them."""
        try:
            image, box = rows.read(box)
        except OSError as error:
            raise DecodeError(f"cannot be read: {error.strerror or error}") from error
        return self._to_pixels(image, counts), box

    def _to_pixels(self, image, counts):
        if self.layout != "rgb":
            return image
        return decode(image, self.channels, self.rules, counts if counts_values(self.rules) else None)


class _Decoded:
    """An image of the stream.

    Its number, its record, undecodable records before, pixels or None, label, `ValueCounts`, and whether
    the decoder had a message.
    """

    __slots__ = ("counts", "doubtful", "image", "index", "label", "number", "skipped")

    def __init__(self, number, index, skipped, image, label, counts, doubtful=False):
        self.number, self.index, self.skipped, self.image, self.label = number, index, skipped, image, label
        self.counts, self.doubtful = counts, doubtful


class RandomOfPosition:
    """A random generator that a seed and a position of the stream determine.

    Its numbers are those of Grain's `random_map`: Philox with the position in the highest word of the
    counter. One generator serves all positions, as making one takes longer than a crop draws.
    """

    def __init__(self, seed: int):
        self._bits = np.random.Philox(seed)
        self.rng, self._state = np.random.Generator(self._bits), self._bits.state

    def at(self, position: int) -> np.random.Generator:
        """Return the generator of a position, valid until the next call."""
        self._state["state"]["counter"][:] = 0, 0, 0, position
        self._bits.state = self._state
        return self.rng
