"""Windows over images larger than the crop: the pixels of the images count, each once."""

import jax
import numpy as np
import pytest

from fastmim_jax.data.masks.base import MaskedImage
from fastmim_jax.evaluate.backbone import open_backbone
from fastmim_jax.evaluate.dense_probes.heads import DenseHeads
from fastmim_jax.evaluate.dense_probes.patch_features import COLORS, PatchFeatures
from fastmim_jax.evaluate.dense_probes.sliding_windows import SlidingWindows
from fastmim_jax.evaluate.dense_probes.tasks import DepthTask, SegmentationTask
from fastmim_jax.evaluate.dense_probes.whole_images import LinearProbe, WholeImages
from helpers import small, stages

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]

HEIGHT, WIDTH = 32, 48


class Images:
    """Three images of a size, with classes or depths; read in this process alone."""

    def __init__(self, height, width, largest):
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (3, height, width, 3), np.uint8)
        self.masks = rng.integers(-1, largest, (3, height, width)).astype(np.int32)

    def __len__(self):
        return len(self.images)

    def read(self, index):
        return MaskedImage(self.images[index], self.masks[index], str(index))


@pytest.fixture(scope="module")
def features(tmp_path_factory, one_device):
    config = small.config()
    config.data.image_size = (HEIGHT, WIDTH)
    stage = open_backbone(stages.untrained(config, tmp_path_factory.mktemp("run")))[1]
    return PatchFeatures(stage, ("block 2",))


def probe(features, task):
    """Random heads at two learning rates."""
    heads, states = DenseHeads(task, 1, rates=(0.1, 0.2)), {}
    for layer, width in (("block 2", features.stage.model.width), (COLORS, 9)):
        keys = jax.random.split(jax.random.key(width), 2)
        state = heads.init(width)
        params = [
            jax.random.normal(*pair) for pair in zip(keys, (x.shape for x in state.params), strict=True)
        ]
        states[layer] = state._replace(params=tuple(params))
    return LinearProbe(heads, states)


@pytest.mark.parametrize(("task", "largest"), [(SegmentationTask(3), 3), (DepthTask(5.0), 60_000)])
def test_sliding_equals_the_whole_image_where_one_window_covers_it(features, task, largest):
    masks, records, heads = Images(HEIGHT, WIDTH, largest), np.arange(3), probe(features, task)
    whole, slide = WholeImages(features), SlidingWindows(features)
    expected, found = (way.count(masks, records, heads, constant=1) for way in (whole, slide))
    np.testing.assert_allclose(found.constant, expected.constant, rtol=1e-6)
    for layer, counts in expected.of_layers.items():
        # Rounding may move a pixel from one class to the other.
        np.testing.assert_allclose(found.of_layers[layer], counts, rtol=1e-5, atol=2)
    rows = zip(*(way.predict(masks, records, heads, COLORS, 1) for way in (whole, slide)), strict=True)
    for one, two in rows:
        np.testing.assert_array_equal(two.image, one.image)
        np.testing.assert_array_equal(two.truth, one.truth)
        assert (np.abs(two.prediction - one.prediction) < 1e-4).mean() > 0.99


def test_windows_side_by_side_predict_as_the_parts_of_the_image(features):
    """At twice the width of the crop, with windows that do not overlap."""
    masks, heads = Images(HEIGHT, 2 * WIDTH, 3), probe(features, SegmentationTask(3))
    slide = SlidingWindows(features, stride=(HEIGHT, WIDTH))
    parts = Images(HEIGHT, WIDTH, 3)
    for side in range(2):
        columns = slice(side * WIDTH, (side + 1) * WIDTH)
        parts.images, parts.masks = masks.images[:, :, columns], masks.masks[:, :, columns]
        expected = WholeImages(features).predict(parts, np.arange(3), heads, "block 2", 0)
        found = slide.predict(masks, np.arange(3), heads, "block 2", 0)
        for one, two in zip(expected, found, strict=True):
            assert (two.prediction[:, columns] == one.prediction).mean() > 0.99
    counts = slide.count(masks, np.arange(3), heads).of_layers["block 2"]
    assert counts.shape == (2, 3, 3) and (counts.sum((1, 2)) == (masks.masks >= 0).sum()).all()
