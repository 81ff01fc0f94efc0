"""Every pixel of a data set counts once, for any batch of windows, and unreadable images count nowhere."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fastmim_jax.data.masks import IGNORE, MaskedImage, MaskError
from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.segmentation.segment_images import evaluate_segmentation, segment_images
from fastmim_jax.train import sharding

CLASSES = 3


def stage(batch_size, mode="slide"):
    """A stage whose model calls a pixel by its brightest channel."""
    devices = jax.devices()[: 1 if batch_size % 2 else 2]
    return SimpleNamespace(
        classes=("red", "green", "blue"),
        eval_batch_size=batch_size,
        mesh=sharding.make_mesh(devices=devices),
        reader=SimpleNamespace(image_size=(16, 16), threads=2),
        config=SimpleNamespace(data=SimpleNamespace(eval_mode=mode, eval_resize=None, eval_stride=(9, 16))),
        logits=lambda variables, images: np.asarray(images, np.float32),
    )


class Drawn:
    """Seven images of 16 pixels' height whose masks are right, but for some pixels and one broken image."""

    def __init__(self, broken=()):
        rng, self.broken = np.random.default_rng(0), broken
        self.masks = [rng.integers(IGNORE, CLASSES, (16, width)) for width in (16, 17, 30, 45, 16, 20, 33)]
        self.predicted = [np.where(rng.random(x.shape) < 0.8, x, 0).clip(0) for x in self.masks]

    def __len__(self):
        return len(self.masks)

    def __repr__(self):
        return "Drawn()"

    def read(self, index):
        if index in self.broken:
            raise MaskError("unreadable", f"{index}.png", "cut off")
        image = (255 * np.eye(CLASSES, dtype=np.uint8))[self.predicted[index]]
        return MaskedImage(image, self.masks[index].astype(np.int32), f"{index}.png")

    def confusion(self):
        counts = np.zeros((CLASSES, CLASSES), np.int64)
        for index in set(range(len(self))) - set(self.broken):
            mask = self.masks[index]
            np.add.at(counts, (mask[mask >= 0], self.predicted[index][mask >= 0]), 1)
        return counts


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5, 6, 7, 8, 16])
def test_last_partial_batches_of_every_size(batch_size):
    data, seen = Drawn(), []
    result = evaluate_segmentation(stage(batch_size), {}, data, seen.append)
    np.testing.assert_array_equal(result.confusion, data.confusion())
    assert result.images == 7 and not result.unreadable
    assert [found.record for found in seen] == list(range(7))
    for found, predicted in zip(seen, data.predicted, strict=True):
        np.testing.assert_array_equal(found.labels, predicted)


def test_unreadable_images_count_nowhere(caplog):
    data = Drawn(broken=(0, 3, 6))
    result = evaluate_segmentation(stage(4), {}, data)
    np.testing.assert_array_equal(result.confusion, data.confusion())
    assert result.images == 4 and [name for name, _ in result.unreadable] == ["0.png", "3.png", "6.png"]
    assert "3 of 7 images count nowhere" in caplog.text
    with pytest.raises(UserError, match="none of the images"):
        evaluate_segmentation(stage(4), {}, Drawn(broken=range(7)))


def test_processes_share_the_images():
    """A process with fewer images yields None for the rounds that it lacks; together they see each once."""
    data, total = Drawn(), 0
    for process in range(2):
        found = list(segment_images(stage(2), {}, data, range(process, 7, 2), rounds=4))
        assert len(found) == 4 and found.count(None) == process
        total += sum(one.counts for one in found if one is not None)
    np.testing.assert_array_equal(total, data.confusion())
