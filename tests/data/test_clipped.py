"""Values outside of the range and missing ones, counted where images are decoded."""

import numpy as np
import pytest

from fastmim_jax.data.clipped import FIELD, ClippedValues
from fastmim_jax.data.eval_batches import make_eval_batches
from fastmim_jax.data.limits import DecodeRules
from fastmim_jax.data.loader import make_loader

RULES = DecodeRules(value_range=(0, 100), nodata=(-9999,), dtype="uint16")


class Records(list):
    """A source of arrays."""

    classes, notices = (), ()

    def label(self, index):
        return -1


def images():
    """Images of 100 values; one has 3 below, 2 above and 5 missing ones, one cannot be decoded."""
    arrays = [np.full((10, 10, 1), 50, np.int16) for _ in range(8)]
    arrays[3][0, :, 0] = [-7, -1, -1, 101, 300, *[-9999] * 5]
    arrays[5] = np.zeros((10, 10, 1), np.uint8)
    return arrays


@pytest.mark.parametrize(
    "workers", [0, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.multiprocess])]
)
def test_clipped_values_are_counted_in_training_and_evaluation(workers):
    options = dict(image_size=(4, 4), channels=1, batch_size=8, rules=RULES, workers=workers)
    for batches in (
        make_loader(Records(images()), seed=0, shuffle=False, **options),
        make_loader(Records(images()), seed=0, shuffle=False, views_per_image=2, **options),
        make_eval_batches(Records(images()), **options),
    ):
        clipped = ClippedValues(RULES)
        with batches:
            batch = next(batches)
        assert batch["image"].dtype == np.uint16
        clipped.update(batch)
        assert (clipped.counts.below, clipped.counts.above, clipped.counts.missing) == (3, 2, 5)
        assert (
            clipped.clipped_images == 1 and clipped.metrics()["clipped_share"] == 5 / clipped.counts.values
        )
        assert "--config.data.value_range='(-7, 300)'" in clipped.summary()
        assert "5 (" in clipped.summary() and "nodata" in clipped.summary()


def test_nothing_is_counted_of_8_bits():
    arrays = [np.zeros((10, 10, 3), np.uint8)] * 4
    with make_loader(Records(arrays), image_size=(4, 4), channels=3, batch_size=4, seed=0) as loader:
        batch = next(loader)
    clipped = ClippedValues(DecodeRules())
    clipped.update(batch)
    assert FIELD not in batch and clipped.metrics() == {} and clipped.summary() is None
