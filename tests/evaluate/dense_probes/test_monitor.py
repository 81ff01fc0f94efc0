"""The segmentation probe during pre-training."""

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.dense_probes import monitor
from fastmim_jax.evaluate.dense_probes.monitor import open_dense_monitor
from fastmim_jax.train.pretrain import pretrain
from helpers import small
from helpers.mask_files import write_folder
from helpers.processes import lines, losses

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device", "shared_stages")]


@pytest.mark.exhaustive
def test_it_is_logged_and_changes_no_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(monitor, "STEPS", 3)
    write_folder(tmp_path / "data", 10)
    runs = []
    for name in ("with", "without"):
        config = small.config(tmp_path / "data" / "images", steps=3)
        config.monitor.update(masks=str(tmp_path / "data"), epochs=10.0)
        hooks = [open_dense_monitor(config)] if name == "with" else []
        pretrain(config, tmp_path / name, hooks, log=lambda line: None)
        runs.append(tmp_path / name)
    (found,) = [line for line in lines(runs[0]) if "dense_miou" in line]
    assert found["step"] == 3 and found["dense_layer"] in (1, 2)
    assert 0 <= found["dense_last_miou"] <= 1 and 0 <= found["dense_colours_miou"] <= 1
    assert losses(runs[0]) == losses(runs[1])
    config.monitor.masks = str(tmp_path)
    with pytest.raises(UserError, match="images/ and masks/"):
        open_dense_monitor(config)
