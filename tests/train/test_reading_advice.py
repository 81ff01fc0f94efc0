"""Advice to a run whose devices wait for data: only what it does not do yet."""

import re

import pytest

from fastmim_jax.build import NOT_PREPARED, StoredImages, create_reader
from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.saved_config import flatten
from fastmim_jax.train.reading_advice import how_to_read_faster

JPEG, YUV = (StoredImages(layout, (256, 341), 3) for layout in ("jpeg", "yuv420"))


def advice(stored, config=None, *, cpus=16, on_cpu=False, **changes):
    config = config or pretrain_config()
    config.run.update(workers=2, threads=4)
    config.update_from_flattened_dict(changes)
    text = how_to_read_faster(config, create_reader(config, stored), stored, cpus=cpus, on_cpu=on_cpu)
    for key in re.findall(r"--config\.([a-z_.]+)=", text):
        assert key in flatten(config)  # only what can be typed
    return text


def test_originals_are_to_be_prepared():
    assert advice(NOT_PREPARED) == (
        "to read faster, try --config.run.workers=4 (now 2 on 16 CPUs) or --config.data.cache=ram; in a "
        "new run a data set shrunk once by `fastmim prepare SRC DST --format=yuv420` or "
        "--config.data.views_per_image=2"
    )


def test_prepared_images_are_not_to_be_prepared_again():
    assert "data prepared with --format=yuv420 instead of jpeg" in advice(JPEG)
    assert "crop_on" not in advice(JPEG)
    text = advice(YUV, cpus=8, **{"data.cache": "ram"})
    assert text == (
        "to read faster, try more CPU cores (now 8 CPUs, all in use); in a new run "
        "--config.data.views_per_image=2 or --config.data.crop_on=device (not measured)"
    )
    assert "crop_on" not in advice(YUV, on_cpu=True)
    assert "crop_on" not in advice(YUV, **{"data.crop_on": "device"})


def test_views_divide_the_batch():
    assert "views_per_image" not in advice(JPEG, **{"schedule.batch_size": 9})


@pytest.mark.parametrize(("magnitude", "crops"), [(9.0, False), (0.0, True)])
def test_fine_tuning_has_no_views_and_randaugment_needs_crops_on_the_host(magnitude, crops):
    text = advice(YUV, finetune_config(), **{"augment.magnitude": magnitude})
    assert "views" not in text and ("crop_on" in text) == crops and text[-1] not in ";,"
