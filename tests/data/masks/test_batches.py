"""Batches of images with masks: the stream of training and the pass of evaluation."""

import numpy as np
import pytest

from fastmim_jax.data.masks import IGNORE, MaskError, open_masks
from fastmim_jax.data.masks.batches import evaluation_pairs, training_pairs
from helpers.mask_files import COLORS, save, write_folder

STREAM = dict(size=(16, 24), batch_size=4, seed=1)


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    root = tmp_path_factory.mktemp("masks")
    write_folder(root, 5)
    return open_masks(root)


def take(loader, count):
    with loader:
        return [{name: array.copy() for name, array in next(loader).items()} for _ in range(count)]


def test_processes_and_resumption_read_one_stream(masks):
    whole = take(training_pairs(masks, **STREAM), 3)
    assert whole[0]["image"].shape == (4, 16, 24, 3) and whole[0]["mask"].shape == (4, 16, 24)
    assert sorted(np.concatenate([batch["index"] for batch in whole])[:5]) == [0, 1, 2, 3, 4]
    rows = np.array([1, 3])
    for found, batch in zip(
        take(training_pairs(masks, **STREAM, rows=rows, start=4), 2), whole[1:], strict=True
    ):
        for name, array in found.items():
            np.testing.assert_array_equal(array, batch[name][rows])


def test_masks_stay_on_their_images(masks):
    batch = take(training_pairs(masks, **{**STREAM, "batch_size": 20}), 1)[0]
    nearest = ((batch["image"][..., None, :].astype(int) - COLORS) ** 2).sum(-1).argmin(-1)
    labelled = batch["mask"] != IGNORE
    assert (nearest == batch["mask"])[labelled].mean() > 0.97


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_every_image_once(masks, count):
    records = np.arange(5)[::-1][:count]
    batches = evaluation_pairs(masks, size=(12, 8), batch_size=2, records=records)
    assert len(batches) == -(-count // 2)
    found = take(batches, len(batches))
    index = np.concatenate([batch["index"] for batch in found])
    np.testing.assert_array_equal(index[:count], records)
    padding = found[-1]["index"] < 0
    assert (found[-1]["mask"][padding] == IGNORE).all() and (found[-1]["image"][padding] == 0).all()


def test_a_mask_that_cannot_be_used(tmp_path):
    write_folder(tmp_path, 2)
    masks = open_masks(tmp_path)
    save(tmp_path / "masks" / "01.png", np.full((28, 32), 9, np.uint8))
    with pytest.raises(MaskError, match=r"01.png: a mask with values beyond the classes"):
        take(evaluation_pairs(masks, size=(8, 8), batch_size=2), 1)
