"""Which records could not be decoded: counted, named, written down, and limited."""

import os

import numpy as np

from fastmim_jax.data.decode import DecodeError, read_image
from fastmim_jax.errors import UserError


class UndecodableRecords:
    """The distinct records that were replaced so far, from the batches of this host.

    Attributes:
      count: how many there are.
    """

    def __init__(self, source, max_share, path=None, channels=3):
        """Args:
        source: what the batches were read from.
        max_share: the share of the source that may be bad, in [0, 1].
        path: a text file, one line 'name<TAB>reason' per bad record. It is read back here, so
          that the count outlives a restart; one file per process.
        channels: as the loader was given, to find the reason again.
        """
        self._source, self._max_share, self._channels = source, max_share, channels
        self._path = None if path is None else os.fspath(path)
        self._reasons = _load(self._path)  # name -> reason, in the order they were met
        self._seen = set()  # indices looked at by this process

    @property
    def count(self):
        return len(self._reasons)

    def update(self, batch):
        """Take note of a batch of numpy arrays; only 'index' and 'bad', both (B,), are used.

        Returns:
          One line 'name: reason' for every record not known to be bad before.

        Raises:
          UserError: more than max_share of the records are bad.
        """
        fresh = {}
        for row in np.flatnonzero(batch["num_undecodable"]):
            for step in range(int(batch["num_undecodable"][row])):
                index = (int(batch["index"][row]) + step) % len(self._source)
                if index in self._seen:
                    continue
                self._seen.add(index)
                name = _clean(self._source, index)
                if name not in self._reasons:
                    fresh[name] = self._reasons[name] = self._reason(index)
        if fresh and self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.writelines(f"{name}\t{reason}\n" for name, reason in fresh.items())
        if self.count > self._max_share * len(self._source):
            raise UserError(self._too_many())
        return [f"{name}: {reason}" for name, reason in fresh.items()]

    def summary(self):
        """One sentence for the end of a run."""
        if not self.count:
            return "every record was decoded"
        return (
            f"{self.count:,} of {len(self._source):,} records could not be decoded and were "
            f"replaced: {self._first_few()}"
        )

    def _reason(self, index):
        try:
            read_image(self._source, index, self._channels)
        except DecodeError as error:
            return " ".join(error.reason.split())
        return "failed in a worker, but decodes now"

    def _first_few(self, limit=3):
        shown = [f"{name} ({reason})" for name, reason in list(self._reasons.items())[:limit]]
        return ", ".join(shown) + (", ..." if self.count > limit else "")

    def _too_many(self):
        share = self.count / len(self._source)
        listed = f" All are listed in {self._path}; delete it" if self._path else " Start again"
        return (
            f"{self.count:,} of {len(self._source):,} records ({share:.2%}) could not be decoded, "
            f"more than the {self._max_share:.2%} that config.data.max_bad_share allows: "
            f"{self._first_few()}.{listed} after repairing or removing them, or raise "
            "the limit with `--config.data.max_bad_share=...`."
        )


def _clean(source, index):
    """A name that keeps to its line and column."""
    try:
        name = source.name(index)
    except Exception:  # the name may be stored inside the record that cannot be read
        name = f"record {index}"
    for breaking in "\t\n\r":
        name = name.replace(breaking, " ")
    return name.encode("utf-8", "backslashreplace").decode()  # file names need not be text


def _load(path):
    if path is None or not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file]
    return {line.partition("\t")[0]: line.partition("\t")[2] for line in lines if line}
