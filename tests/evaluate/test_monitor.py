"""The probe during pre-training: when it runs, and that it changes no loss."""

import shutil

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.monitor import open_monitor
from fastmim_jax.evaluate.probe import probe
from fastmim_jax.train.pretrain import pretrain
from helpers import small
from helpers.labelled_images import write_splits
from helpers.processes import lines, losses

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device", "shared_stages")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_splits(tmp_path_factory.mktemp("images"), train=16, test=6)


def run(folder, workdir, path, steps=9):
    config = small.config(folder, steps=steps)
    config.monitor.update(path=str(path), epochs=1.4, images=40)
    pretrain(config, workdir, [open_monitor(config)] if path else [], log=lambda line: None)
    return workdir


def probed(workdir):
    """{step: what the probe found}, without the time of day."""
    found = [line for line in lines(workdir) if "probe_top1" in line]
    return {line["step"]: {key: x for key, x in line.items() if key != "time"} for line in found}


@pytest.fixture(scope="module")
def monitored(folder, tmp_path_factory):
    return run(folder, tmp_path_factory.mktemp("monitored"), folder)


def test_it_runs_at_its_interval_and_after_the_last_step(monitored):
    found = probed(monitored)
    # 49 records in batches of 16, every 1.4 epochs of 3.06 steps: every 4 steps.
    assert list(found) == [4, 8, 9]
    for line in found.values():
        assert line.keys() == {"step", "probe_top1", "probe_layer", "probe_last_top1"}
        assert line["probe_top1"] > 0.9 and line["probe_last_top1"] > 0.9 and line["probe_layer"] in (1, 2)


def test_it_agrees_with_the_probe_command(monitored, folder):
    table = probe(monitored, str(folder), kinds=("ridge",), count=40, log=lambda line: None)
    best = max(table, key=lambda line: line.held_out)
    line = probed(monitored)[9]
    assert best.layer.startswith(f"block {line['probe_layer']} ")
    assert line["probe_top1"] == best.accuracies[0]
    assert line["probe_last_top1"] == max(x.accuracies[0] for x in table if x.layer.startswith("block 2"))


def test_losses_are_the_same_to_the_bit_without_it(monitored, folder, tmp_path):
    assert losses(run(folder, tmp_path, "")) == losses(monitored)


def test_it_resumes_with_the_run(monitored, folder, tmp_path):
    shutil.copytree(monitored, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "checkpoints" / "9")
    assert (tmp_path / "copy" / "checkpoints" / "6").exists()
    run(folder, tmp_path / "copy", folder)
    assert probed(tmp_path / "copy") == probed(monitored)
    assert losses(tmp_path / "copy") == losses(monitored)


def test_data_without_labels_is_refused_before_the_first_step(folder, tmp_path):
    with pytest.raises(UserError, match="no class folders"):
        run(folder, tmp_path / "w", folder / "test" / "red")
    assert not (tmp_path / "w").exists()
