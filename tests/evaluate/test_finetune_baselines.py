"""The accuracies that fine-tuning has to beat, and early stopping."""

import json

import numpy as np
import pytest

from fastmim_jax.data.labels import open_evaluation
from fastmim_jax.data.sources import open_source
from fastmim_jax.evaluate.best_checkpoint import BestCheckpoint
from fastmim_jax.evaluate.finetune_baselines import majority_accuracy, measure_baselines
from fastmim_jax.train.finetune import finetune
from fastmim_jax.train.hook import Hook
from fastmim_jax.train.runs import load_run
from helpers import small
from helpers.stages import untrained


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """9, 3 and 3 images of three classes, of which 2, 3 and 1 are evaluated on."""
    return small.write_classes(tmp_path_factory.mktemp("data"), train=(9, 3, 3), val=(2, 3, 1))


def test_the_largest_class_of_training_is_counted_in_the_evaluation(data):
    source = open_source(data, "train")
    held_out = open_evaluation(small.tuning(data).data, source.classes)
    assert majority_accuracy(source, held_out) == 2 / 6
    assert majority_accuracy(held_out, source) == 3 / 15


def test_a_hook_alone_ends_no_run():
    assert not Hook(3, lambda step, state: None).ended(2)


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_a_run_names_what_it_has_to_beat_at_its_start_and_end(data, tmp_path, capsys):
    init = untrained(small.config(data, steps=2), tmp_path / "init", step=2)
    config, lines = small.tuning(data, init, steps=6), []
    config.run.update(eval_epochs=1.0, patience_epochs=2.0)
    config.optimizer.update(
        base_lr=0.0, ema_decay=0.0
    )  # nothing is learned, so that no evaluation is better
    options = dict(log=lines.append, measure_baselines=measure_baselines)
    workdir = tmp_path / "tuned"
    assert finetune(config, workdir, BestCheckpoint, **options) == 3  # a batch is about an epoch
    found = json.loads((workdir / "baselines.json").read_text())[0]["evaluation"]
    assert found["majority class"] == 2 / 6 and 0 <= found["ridge probe"] <= 1
    majority = [line for line in lines if "33.33%, majority class" in line]
    assert len(majority) == 2 and sum("ridge probe: of the frozen" in line for line in lines) == 2
    assert capsys.readouterr().out.count("early stopping after step 3: the best evaluation was after") == 1
    assert finetune(config, workdir, BestCheckpoint, **options) == 3  # no step more
    source = open_source(data, "train")
    notes = measure_baselines(config, source, source, load_run(init), workdir, print)
    assert np.isclose(float(notes[0].text.split("%")[0]), 33.33)  # as it was stored
