"""Outputs of windows come back with their image, whatever batches they were computed in."""

from functools import partial

import numpy as np

from fastmim_jax.data.masks import MaskedImage, MaskError
from fastmim_jax.evaluate.segmentation.window_batches import map_windows, of_all_processes, own_records
from fastmim_jax.evaluate.segmentation.windows import cut_windows, plan_windows


class Gray:
    """Images of one value each, and a broken one."""

    widths = (16, 40, 16, 33)

    def read(self, index):
        if index == 2:
            raise MaskError("unreadable", "2.png", "cut off")
        image = np.full((16, self.widths[index], 3), index + 1, np.uint8)
        return MaskedImage(image, np.zeros(image.shape[:2], np.int32), f"{index}.png")


def test_outputs_of_windows_are_those_of_their_image():
    source, sizes = Gray(), []

    def compute(windows):
        sizes.append(len(windows))
        return {"least": windows.min((1, 2)), "sum": windows.sum((1, 2, 3), dtype=int)}

    plan_of = partial(plan_windows, crop=(16, 16))
    found = [*map_windows(compute, source, range(4), plan_of, batch_size=3, threads=2, rounds=5)]
    assert set(sizes) == {3} and found.count(None) == 1
    (broken,) = [one for one in found if isinstance(one, MaskError)]
    assert broken.name == "2.png"
    images = [one for one in found if one is not None and one is not broken]
    assert [one.record for one in images] == [0, 1, 3]
    for one in images:
        windows = cut_windows(one.image.image, one.plan)
        np.testing.assert_array_equal(one.outputs["sum"], windows.sum((1, 2, 3)))
        assert one.outputs["least"].shape == (len(one.plan.starts), 3)


def test_a_process_that_runs_alone_has_every_record():
    assert own_records(range(5)) == (range(5), 5) and of_all_processes("name", [1]) == [[1]]
