"""A share of every class, held out of training where a data set has no split to evaluate on."""

import hashlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from fastmim_jax.data.sources import Source
from fastmim_jax.data.sources.paths import relative_name
from fastmim_jax.data.sources.record_rows import RecordRows, read_rows
from fastmim_jax.errors import UserError

SEED = 20221213  # one seed for all runs, so that their accuracies are of the same images
MOST_LABELS_READ = 200_000  # of a data set whose labels stand in its records
_NAMED = 3  # classes in a sentence


class SubsetSource:
    """Some records of a source, in its order, with all of its classes.

    Attributes:
      records: (n,) ascending numbers of the records in the source.
      labels: (n,) of the records.
      notes: sentences on how the records were chosen.
    """

    def __init__(self, source: Source, records: np.ndarray, labels: np.ndarray, notes: Sequence[str] = ()):
        self.classes, self.notices, self.notes = source.classes, source.notices, tuple(notes)
        self.path, self.manifest = getattr(source, "path", ""), getattr(source, "manifest", None)
        self.names_in_memory = getattr(source, "names_in_memory", True)
        self.records, self.labels, self._source = records, labels, source

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        return self._source[int(self.records[index])]

    def rows(self, index: int) -> RecordRows | None:
        """See `RecordsSource.rows`."""
        return read_rows(self._source, int(self.records[index]))

    def name(self, index: int) -> str:
        return self._source.name(int(self.records[index]))

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def all_labels(self) -> np.ndarray:
        """Return the labels of all records."""
        return self.labels

    def label_problem(self) -> str | None:
        return None  # all records have labels, see `split_share`

    def __repr__(self) -> str:
        return f"{len(self):,} of the images of {self._source!r}"


def split_share(source: Source, share: float) -> tuple[Source, Source]:
    """Return (training, held-out) records of a labelled source: no record is in both.

    Of every class the records whose names have the lowest hashes are held out, so that the choice is the
    same on every host, in every run, and wherever the data set lies; names of joined data sets, and names
    that stand in the records, are replaced by numbers. A class of one image stays in training.

    Args:
      source: with a label for each record.
      share: of every class, above 0 and below 1; rounded to images, at least one and never all.

    Raises:
      UserError: no class has two images, or the labels would have to be read from too many records.
    """
    labels = _all_labels(source)
    keys = [_key(source, index) for index in range(len(source))]
    held_out: list[int] = []
    single: list[str] = []
    for number, name in enumerate(source.classes):
        members = np.flatnonzero(labels == number).tolist()
        if len(members) == 1:
            single.append(name)
        if len(members) > 1:
            count = min(max(1, round(share * len(members))), len(members) - 1)
            held_out += sorted(members, key=keys.__getitem__)[:count]
    if not held_out:
        raise UserError(
            f"{source!r} has no class of two images, one of which could be held out: type "
            "--config.data.eval_path=DIR with images of the same classes to evaluate on"
        )
    chosen = np.zeros(len(source), bool)
    chosen[held_out] = True
    notes = _notes(source, share, chosen, labels, single)
    training, evaluation = (np.flatnonzero(part) for part in (~chosen, chosen))
    return (
        cast(Source, SubsetSource(source, training, labels[training])),
        cast(Source, SubsetSource(source, evaluation, labels[evaluation], notes)),
    )


def _notes(source, share, chosen, labels, single) -> list[str]:
    classes = len(np.unique(labels[chosen]))
    count = int(chosen.sum())
    notes = [
        f"{count:,} image{'s' * (count != 1)} of {classes:,} class{'es' * (classes != 1)}, "
        f"{share:.0%} of each and at least one, which are not trained on (config.data.eval_share)",
        "for a split of your own: folders train and val, or --config.data.eval_path=DIR",
    ]
    if single:
        shown = ", ".join(single[:_NAMED]) + ", ..." * (len(single) > _NAMED)
        notes.append(
            f"{len(single):,} class{'es' * (len(single) != 1)} of one image, which is trained on and not "
            f"evaluated: {shown}"
        )
    return notes


def _all_labels(source: Source) -> np.ndarray:
    labels = getattr(source, "all_labels", lambda: None)()
    if labels is not None:
        return np.asarray(labels)
    if not getattr(source, "names_in_memory", True) and len(source) > MOST_LABELS_READ:
        raise UserError(
            f"{source!r} has no val or test split to evaluate on, and its labels stand in its "
            f"{len(source):,} records: type --config.data.eval_path=DIR with images of the same classes"
        )
    return np.array([source.label(index) for index in range(len(source))])


def _key(source: Source, index: int) -> str:
    """Return the hash that decides whether a record is held out."""
    root, name = str(getattr(source, "path", "")), str(index)
    if root and getattr(source, "names_in_memory", True):
        name = relative_name(source.name(index), root)
    return hashlib.sha256(f"{SEED}\t{name}".encode("utf-8", "surrogateescape")).hexdigest()
