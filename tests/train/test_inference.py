"""Checkpoints opened for evaluation: on any devices, with any batch size, without a plan of training."""

import jax
import numpy as np
import pytest

from fastmim_jax.data.sources import open_source
from fastmim_jax.evaluate.classify import classify
from fastmim_jax.train.inference import open_classifier, open_method
from helpers import small, stages
from helpers.labelled_images import COLOURS, tuning_config, untrained, write_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 5)


@pytest.fixture(scope="module")
def finetuned(folder, tmp_path_factory):
    """A run whose parameters were split over 8 devices, with groups and accumulation for batches of 16."""
    config = tuning_config(folder)
    config.run.mesh_fsdp = 8
    config.schedule.accumulation = 2
    config.augment.mix_groups = 8
    return untrained(config, tmp_path_factory.mktemp("run"), 15, tuple(sorted(COLOURS)))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 3])
def test_a_classifier_is_evaluated_on_other_devices_than_it_was_trained_on(finetuned, folder, devices):
    _, reference = open_classifier(finetuned)
    _, stage = open_classifier(finetuned, batch_size=4, devices=jax.devices()[:devices])
    assert reference.eval_batch_size == 16 and stage.eval_batch_size == {1: 4, 3: 6}[devices]
    assert stage.classes == tuple(sorted(COLOURS))
    source = open_source(str(folder))
    expected, found = (classify(x, x.variables, source) for x in (reference, stage))
    np.testing.assert_array_equal(found.index, np.arange(15))
    # Batches of other sizes: a few roundings of float32.
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_mixing_method_takes_any_even_batch(tmp_path, folder):
    config = small.mixmim(small.config(folder, steps=1))
    stages.untrained(config, tmp_path, devices=jax.devices()[:1])
    loaded, stage = open_method(tmp_path, batch_size=6, devices=jax.devices()[:1])
    assert config.method.groups == 8 and stage.model.groups == 1 and loaded.stage == 0
    batch = {"image": np.zeros((6, 64, 64, 3), np.uint8), "flip": np.zeros(6, bool)}
    out, images = stage.forward(stage.variables, batch, np.int32(0))
    assert images.shape == (6, 64, 64, 3) and np.isfinite(out.loss)


@pytest.mark.slow
def test_batches_fit_few_records_and_all_devices(finetuned):
    _, stage = open_classifier(finetuned, batch_size=24)
    assert [stage.batch_size_for(records) for records in (1, 8, 9, 17, 100)] == [8, 8, 16, 24, 24]
