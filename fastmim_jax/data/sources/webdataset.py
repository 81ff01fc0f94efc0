"""Webdataset shards: .tar files of samples, read in any order by an index of their offsets."""

import os
from collections import Counter

import numpy as np

from fastmim_jax.data.sources import shards
from fastmim_jax.data.sources.base import LabelledSource
from fastmim_jax.data.sources.paths import PathTable, compact, number_classes, numeric_order
from fastmim_jax.data.sources.pread import read_at
from fastmim_jax.data.sources.tar_index import TarIndex, open_indexes
from fastmim_jax.errors import UserError


def matches(path: str) -> bool:
    """Return whether `path` is a .tar file, a pattern of them or a folder of them."""
    return shards.has_shards(path, "tar")


def split_names(path: str) -> tuple[str, ...]:
    """Return the splits that the names of the shards tell; () if none. Raises as `shards.find_shards`."""
    return shards.split_names(path, "tar")


def open_split(path: str, split: str) -> "TarSource":
    """Open the shards of a split; raises as `shards.choose_shards` and `TarSource`."""
    return TarSource(path, shards.choose_shards(path, "tar", split))


class TarSource(LabelledSource):
    """The samples with an image of some shards, in their order.

    The class of a sample is the number in its .cls file; else the first of "class_name", "label_name",
    "label", "class", "cls" and "category" in its .json file, a text before a number; else the text of its
    .txt file, if a text belongs to two samples or more on average (captions are no classes).
    """

    expected_labels = "expected a .cls file with a number, or a .json file with a key label, in each sample"

    def __init__(self, path: str, files: tuple[str, ...]):
        """Open shards; path: of the data set, for messages.

        Raises:
          UserError: a shard that is no tar file or truncated, or no image.
        """
        self._files, indexes = open_indexes(files, path)
        samples = [sample for index in indexes for sample in index.samples]
        if not samples:
            seen = f"holds no images{_without_image(indexes)}"
            raise UserError(f"{path} {seen}; expected samples such as 000.jpg and 000.cls.")
        counts = [len(index.samples) for index in indexes]
        self._first = np.cumsum([0, *counts])  # record of each shard
        self._offsets = compact([sample.offset for sample in samples])
        self._sizes = compact([sample.size for sample in samples])
        self._names = PathTable(os.fsencode(sample.name) for sample in samples)
        labels = [sample.labels for sample in samples]
        classes, numbers = number_classes(_class_names(labels), numeric_order)
        super().__init__(
            path, classes, numbers, [*_notices(path, files, indexes), *shards.skipped_in(path, files)]
        )

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self._first, index, "right")) - 1

    def __getitem__(self, index: int) -> bytes:
        index = self.position(index)
        file = self._files[self._shard(index)]
        return read_at(file, int(self._offsets[index]), int(self._sizes[index]))

    def name(self, index: int) -> str:
        index = self.position(index)
        return f"{self._files[self._shard(index)].path}/{os.fsdecode(self._names[index])}"


def _class_names(labels: list[tuple[str | None, ...]]) -> list[str | None]:
    """-> the class of each sample; labels: see `tar_index.Sample`."""
    names: list[str | None] = [cls if cls is not None else meta for cls, meta, _ in labels]
    if any(name is not None for name in names):
        return names
    texts: list[str | None] = [text for _, _, text in labels]
    return texts if 2 * len(set(texts)) <= len(texts) else names


def _without_image(indexes: list[TarIndex]) -> str:
    others: Counter[str] = Counter()
    for index in indexes:
        others.update(index.others)
    if not others:
        return ""
    shown = ", ".join(f"{count:,} with {kinds}" for kinds, count in others.most_common(5))
    return f", but {others.total():,} sample{'s' * (others.total() > 1)} without one ({shown})"


def _notices(path: str, files: tuple[str, ...], indexes: list[TarIndex]) -> list[str]:
    sentences = []
    without = _without_image(indexes)
    if without:
        sentences.append(f"{path}: ignored" + without.removeprefix(", but"))
    cut = [file for file, index in zip(files, indexes, strict=True) if not index.complete]
    if cut:
        sentences.append(
            f"{path}: {len(cut):,} of {len(files):,} .tar files end without the mark of a complete archive "
            f"and may be truncated, such as {cut[0]}"
        )
    return sentences
