"""Records in memory are the records of the source, in this process and in workers; too many are refused."""

import pickle

import numpy as np
import pytest

from fastmim_jax.data import ram_cache
from fastmim_jax.data.loader import make_loader
from fastmim_jax.data.ram_cache import cache_in_memory
from fastmim_jax.data.records.raw import RawImage
from fastmim_jax.data.records.yuv import from_rgb
from fastmim_jax.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)


class Records:
    """One record of every kind; the fourth cannot be read."""

    classes, layout = ("a", "b"), "raw"
    records = (b"bytes", PIXELS, from_rgb(PIXELS), None, RawImage(PIXELS, (0.0, 200.0)), PIXELS[:, ::2])

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        if self.records[index] is None:
            raise OSError("gone")
        return self.records[index]

    def label(self, index):
        return index % 2


@pytest.fixture
def cache():
    lines = []
    yield cache_in_memory(Records(), 2, lines.append)
    assert lines == ["6 records in memory, 0.00 GiB"]


def test_records_are_those_of_the_source(cache):
    for source in (cache, pickle.loads(pickle.dumps(cache))):
        assert len(source) == 6 and source.layout == "raw" and source.label(3) == 1
        assert source[0] == b"bytes"
        np.testing.assert_array_equal(source[1], PIXELS)
        np.testing.assert_array_equal(source[-1], PIXELS[:, ::2])
        assert not source[1].flags.writeable and not source[1].flags.owndata
        for name in "yuv":
            np.testing.assert_array_equal(getattr(source[2], name), getattr(Records.records[2], name))
        assert source[4].value_range == (0.0, 200.0)
        with pytest.raises(OSError, match="gone"):
            source[3]
    assert repr(cache).endswith("in memory")


@pytest.mark.parametrize(
    "workers", [0, pytest.param(2, marks=[pytest.mark.slow, pytest.mark.multiprocess])]
)
def test_batches_are_those_of_the_source(cache, workers):
    options = dict(image_size=(4, 4), channels=3, batch_size=4, seed=0)
    with (
        make_loader(Records(), **options) as plain,
        make_loader(cache, workers=workers, **options) as loader,
    ):
        for _ in range(3):
            for (name, expected), array in zip(next(plain).items(), next(loader).values(), strict=True):
                np.testing.assert_array_equal(array, expected, err_msg=name)


def test_records_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr(ram_cache, "free_memory", lambda: 100)
    with pytest.raises(UserError, match=r"6 records need about 0.00 GiB, expected at most .*80% of"):
        cache_in_memory(Records(), 1, print)
