"""Hashes of records: other content is seen, little is read."""

import numpy as np
import pytest

from fastmim_jax.data import sampled_content
from fastmim_jax.data.records.raw import RawImage
from fastmim_jax.data.records.yuv import from_rgb
from fastmim_jax.data.sampled_content import SAMPLED, count_changes, hash_records
from fastmim_jax.data.sources import open_source


class Records(list):
    """A source that notes what is read."""

    def __init__(self, records):
        super().__init__(records)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        if super().__getitem__(index) is None:
            raise OSError("cannot be read")
        return super().__getitem__(index)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 1000])
def test_few_records_are_read_each_once(count):
    source = Records([b"%d" % i for i in range(count)])
    hashes = hash_records(source)
    assert len(set(hashes)) == len(hashes) == len(source.read) == min(count, SAMPLED)
    assert {0, count - 1} <= set(source.read) and hashes == hash_records(source)


def test_changes_are_counted():
    records = [b"a" * 100, b"b", None, np.arange(6).reshape(2, 3), from_rgb(np.zeros((4, 4, 3), np.uint8))]
    records.append(RawImage(np.ones((2, 2, 1), np.float32), (0, 1)))
    before = hash_records(Records(records))
    assert [x is None for x in before] == [False, False, True, False, False, False]
    assert count_changes(before, before) == (0, 5)
    changed = [b"a" * 99, b"b", b"c", np.arange(6).reshape(2, 3) + 1, *records[4:]]
    assert count_changes(before, hash_records(Records(changed))) == (2, 5)
    assert count_changes([], before) == (0, 0)


def test_large_records_and_slow_networks_are_given_up(monkeypatch):
    source = Records([b"x" * 100] * 50)
    monkeypatch.setattr(sampled_content, "_MAX_BYTES", 950)
    assert sum(x is not None for x in hash_records(source)) == 10
    monkeypatch.setattr(sampled_content, "_MAX_SECONDS", -1)
    assert not any(hash_records(source))


def test_sources_that_cannot_change_are_not_read():
    assert hash_records(open_source("sample")) == []
