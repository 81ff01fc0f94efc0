"""Records that could not be decoded: counted, listed in a file, and limited."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np

from fastmim_jax.data.decode import DEFAULT_RULES, read_image
from fastmim_jax.data.limits import MAX_TRIES, DecodeError, DecodeRules
from fastmim_jax.data.masks.problems import MaskError
from fastmim_jax.data.replacements import candidates, describe_classes, label_of
from fastmim_jax.data.sources import Source
from fastmim_jax.errors import UserError
from fastmim_jax.io import write_text
from fastmim_jax.paths import to_text

DECODES_NOW = "failed in a worker, but decodes now"
MANY = 1000  # records whose second try is announced


class UndecodableRecords:
    """The distinct undecodable records met so far, in the batches of this process.

    Attributes:
      count: number of them.
    """

    def __init__(
        self,
        source: Source,
        max_share: float,
        path: str | os.PathLike | None = None,
        channels: int = 3,
        rules: DecodeRules = DEFAULT_RULES,
        log: Callable[[str], None] = lambda text: None,
        threads: int = 1,
    ):
        """Try the records of earlier runs in `path` again, and keep those that still cannot be decoded.

        Args:
          source: the source of the batches.
          max_share: allowed share of undecodable records, in [0, 1].
          path: a text file with one line 'name<TAB>reason<TAB>index' per record, or None; one file per
            process.
          channels, rules: see `make_loader`; the reason is found by decoding the record again.
          log: prints a line. threads: that try the records of earlier runs.
        """
        self._source, self._max_share = source, max_share
        self._channels, self._rules = channels, rules
        self._path = None if path is None else os.fspath(path)
        self._reasons: dict[str, str] = {}  # name -> reason, in order of discovery
        self._checked: set[int] = set()  # indices that this process has looked up
        self._doubtful: set[int] = set()  # records that were read though the decoder had a message
        self._broken: dict[str, int] = {}  # classes without a good image -> number of images tried
        self._take_over(threads, log)

    @property
    def count(self) -> int:
        return len(self._reasons)

    def update(self, batch: Mapping[str, np.ndarray]) -> list[str]:
        """Add the undecodable records of a batch.

        Args:
          batch: arrays of a loader; only 'index', 'num_undecodable', 'doubtful' and 'label', all (B,), are
            used.

        Returns:
          One line 'replaced NAME: REASON' per record that was not yet listed, and one per class without a
          good image.

        Raises:
          UserError: more than max_share of the records are undecodable, or an image of the batch is empty
            because none of MAX_TRIES records could be decoded.
        """
        if "doubtful" in batch:
            self._doubtful.update(batch["index"][batch["doubtful"]].tolist())
        found: dict[str, str] = {}
        indices: dict[str, int] = {}
        broken: dict[str, int] = {}
        for row in np.flatnonzero(batch["num_undecodable"]):
            first, number = int(batch["index"][row]), int(batch["num_undecodable"][row])
            if number == 1 and first in self._checked:
                continue
            bad = list(islice(candidates(self._source, first, MAX_TRIES), number))
            for index in bad:
                if index in self._checked:
                    continue
                self._checked.add(index)
                name = _one_line_name(self._source, index)
                if name not in self._reasons:
                    found[name] = self._reasons[name] = self._reason(index) or DECODES_NOW
                    indices[name] = index
            broken |= self._broken_class(first, bad, int(batch["label"][row]))
        problem = self._list(_line(name, reason, indices[name]) for name, reason in found.items())
        if self.count > self._max_share * len(self._source):
            raise UserError(self._too_many())
        tries = min(MAX_TRIES, len(self._source))
        if (batch["num_undecodable"] >= tries).any():
            raise UserError(
                f"{tries:,} records in a row could not be decoded: {self._examples()}; expected images: "
                "repair or remove these files"
            )
        lines = [f"replaced {name}: {reason}" for name, reason in found.items()]
        return lines + problem + describe_classes(broken)

    def _list(self, lines):
        """Append lines to the file -> a sentence if that fails, which ends no run."""
        text = "".join(lines)
        if not text or self._path is None:
            return []
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            return [f"{self._path} cannot be written: {error.strerror}"]
        return []

    def summary(self) -> str:
        """Return one sentence for the end of a run."""
        counts = "every record was decoded"
        if self.count:
            counts = f"{self._counts()} could not be decoded and were replaced: {self._examples()}"
        doubtful = [describe_doubtful(len(self._doubtful))] if self._doubtful else []
        return "; ".join([counts, *doubtful, *describe_classes(self._broken)])

    def _broken_class(self, first, bad, label_used):
        """-> {class: number of its images tried} if another class stands in, and that is new; else {}."""
        label = label_of(self._source, first)
        if label in (-1, label_used) or self._source.classes[label] in self._broken:
            return {}
        count = sum(label_of(self._source, index) == label for index in bad)
        self._broken[self._source.classes[label]] = count
        return {self._source.classes[label]: count}

    def _take_over(self, threads, log):
        """Read the list of earlier runs and rewrite it with the records that still cannot be decoded."""
        listed, damaged = _read_list(self._path)
        if not listed and not damaged:
            return
        present = [line for line in listed if line.record < len(self._source)]
        present = [line for line in present if _one_line_name(self._source, line.record) == line.name]
        if len(present) > MANY:
            log(f"trying the {len(present):,} records in {self._path} again")
        with ThreadPoolExecutor(max(threads, 1)) as pool:
            reasons = list(pool.map(self._reason, [line.record for line in present]))
        still = [
            line._replace(reason=reason) for line, reason in zip(present, reasons, strict=True) if reason
        ]
        self._reasons = {line.name: line.reason for line in still}
        write_text(self._path, "".join(_line(*line) for line in still))
        if damaged:
            log(f"{self._path}: damaged lines removed: {damaged:,}")
        if len(still) < len(listed):
            fine, all_of_them = len(listed) - len(still), f"{len(listed):,} records in {self._path}"
            log(
                f"{fine:,} of the {all_of_them} can be decoded now, or are no longer there: removed from it"
            )

    def _reason(self, index):
        """Return why a record cannot be decoded, or "" if it can."""
        try:
            if hasattr(self._source, "read"):  # with a mask
                self._source.read(index)
            else:
                read_image(self._source, index, self._channels, self._rules)
        except DecodeError as error:
            return " ".join(error.reason.split())
        except MaskError as error:
            return " ".join(error.reason.split())
        return ""

    def _counts(self):
        return f"{self.count:,} of {len(self._source):,} records"

    def _examples(self, limit=3):
        shown = [f"{name} ({reason})" for name, reason in list(self._reasons.items())[:limit]]
        return ", ".join(shown) + (", ..." if self.count > limit else "")

    def _too_many(self):
        share = self.count / len(self._source)
        listed = f"All are listed in {self._path}. " if self._path else ""
        return (
            f"{self._counts()} ({share:.2%}) could not be decoded, expected at most "
            f"{self._max_share:.2%} (config.data.max_bad_share): {self._examples()}. {listed}Start "
            "again after repairing or removing them, or raise the limit with "
            "`--config.data.max_bad_share=...`."
        )


def describe_doubtful(number: int) -> str:
    """Return a sentence on images that were read though the decoder had messages on them."""
    images = "1 image was" if number == 1 else f"{number:,} images were"
    return f"{images} read in part, or may be damaged"


def _one_line_name(source, index):
    """A record's name without tabs and line breaks, which separate the columns and lines of the file."""
    try:
        name = source.name(index)
    except Exception:  # the name may be stored inside the record that cannot be read
        name = f"record {index}"
    for separator in "\t\n\r":
        name = name.replace(separator, " ")
    return to_text(name)


class _Listed(NamedTuple):
    """A line of the list: name, why it cannot be decoded, and index of a record in the source."""

    name: str
    reason: str
    record: int


def _line(name: str, reason: str, index: int) -> str:
    return f"{name}\t{reason}\t{index}\n"


def _read_list(path: str | None) -> tuple[list[_Listed], int]:
    """-> (lines of a list, number of lines that are none)."""
    if path is None or not os.path.lexists(path):
        return [], 0
    try:
        with open(path, "rb") as file:
            lines = list(filter(None, file.read().split(b"\n")))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}), expected a file: move it out of the way"
        ) from error
    listed = {}
    for line in lines:
        parts = line.decode("utf-8", "replace").split("\t")
        # Earlier versions wrote no index: the record is found again when it is met.
        if len(parts) == 3 and parts[2].isascii() and parts[2].isdigit() and len(parts[2]) < 19:
            listed[parts[0]] = _Listed(parts[0], parts[1], int(parts[2]))
    return list(listed.values()), len(lines) - len(listed)
