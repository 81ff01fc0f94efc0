"""The stream of segmentation: that of `training_pairs`, with pairs that cannot be used replaced."""

import numpy as np
import pytest

from fastmim_jax.data.masks import open_masks
from fastmim_jax.data.masks.batches import training_pairs
from fastmim_jax.data.masks.stream import MASK_DTYPE, make_mask_loader
from fastmim_jax.data.sampled_content import hash_records
from helpers.mask_files import save, write_folder

STREAM = dict(size=(16, 24), batch_size=4, seed=1, scale=(0.5, 2.0), max_class_share=0.75)
LOADER = dict(STREAM, photometric=0.0)


def take(loader, count):
    with loader:
        return [{name: array.copy() for name, array in next(loader).items()} for _ in range(count)]


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path, 5)
    return tmp_path


def test_it_is_the_stream_of_training_pairs_for_any_rows_and_start(folder):
    masks = open_masks(folder)
    expected = take(training_pairs(masks, **STREAM), 3)[1:]
    found = take(make_mask_loader(masks, **LOADER, rows=np.array([1, 3]), start=4), 2)
    for one, other in zip(found, expected, strict=True):
        assert one["mask"].dtype == MASK_DTYPE and not one["num_undecodable"].any()
        for name in ("image", "mask", "index"):
            np.testing.assert_array_equal(one[name], other[name][[1, 3]])


def test_a_changed_mask_is_other_content(folder):
    before = hash_records(open_masks(folder))
    save(folder / "masks" / "02.png", np.zeros((32, 32), np.uint8))
    changed = [old != new for old, new in zip(before, hash_records(open_masks(folder)), strict=True)]
    assert changed == [False, False, True, False, False]


def test_a_pair_that_cannot_be_used_is_replaced_and_counted(folder):
    masks = open_masks(folder)
    save(folder / "masks" / "02.png", np.zeros((3, 3), np.uint8))
    batch = take(make_mask_loader(masks, **LOADER, rows=np.arange(4)), 2)
    index, bad = (np.concatenate([x[name] for x in batch]) for name in ("index", "num_undecodable"))
    np.testing.assert_array_equal(bad, index == 2)
    assert (index == 2).any() and all(x["image"].any() for x in batch)
