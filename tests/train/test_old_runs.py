"""Runs written before names changed still open and resume: same config, same arrays, same losses."""

import hashlib
import json
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from fastmim_jax.__main__ import main
from fastmim_jax.train.runs import load_run, read_config

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests" / "data" / "before_rename"
STEP = 4  # of the checkpoint that is kept; expected.json has the metrics of the steps after it
# sha256 of the evaluated variables of that step, in the order of their paths.
DIGESTS = {"pretrain": "003171ae39de24d5", "finetune": "fec451b50a498f34"}
CONFIGS = {
    "pretrain": """
from fastmim_jax.config import pretrain_config

def get_config():
    c = pretrain_config()
    c.data.update(path="sample", image_size=(16, 16), eval_split="test", eval_records=16)
    c.method.backbone.update(name="vit_ti8", width=16, depth=1, heads=2)
    c.method.decoder.update(width=16, depth=1)
    c.method.update(dtype="float32", block_size=8)
    c.optimizer.no_decay = ("mask_token",)
    c.optimizer.base_lr = 1.6e-2
    c.schedule.update(batch_size=16, steps=8, warmup_epochs=0.01)
    c.run.update(log_every=1, eval_every=4, picture_every=0, checkpoint_every=4, workers=0, threads=2)
    return c
""",
    "finetune": """
from fastmim_jax.config import finetune_config

def get_config():
    c = finetune_config()
    c.data.update(path="sample", image_size=(16, 16), eval_resize=18)
    c.model.backbone.update(name="vit_ti8", width=16, depth=1, heads=2, positions="learned")
    c.model.dtype = "float32"
    c.optimizer.ema_decay = 0.9
    c.optimizer.base_lr = 1.6e-2
    c.augment.update(magnitude_std=0.4, random_erasing=0.3, label_smoothing=0.2, repeated_augmentation=2)
    c.schedule.update(batch_size=16, steps=8, warmup_epochs=0.01)
    c.run.update(log_every=1, eval_epochs=0.0, checkpoint_every=4, workers=0, threads=2)
    return c
""",
}


@pytest.fixture(params=CONFIGS)
def old_run(request, tmp_path):
    """The command and the work directory that it wrote, with the checkpoint of step 4 as its newest."""
    with zipfile.ZipFile(OLD / f"{request.param}.zip") as archive:
        archive.extractall(tmp_path / "run")
    return request.param, tmp_path / "run"


def test_old_keys_are_read_under_their_new_names(old_run):
    command, workdir = old_run
    config = read_config(workdir)
    if command == "pretrain":
        assert tuple(config.optimizer.no_decay) == ("mask_token",) and "spared" not in config.optimizer
    else:
        assert config.optimizer.ema_decay == 0.9
        assert config.augment.magnitude_std == 0.4 and config.augment.random_erasing == 0.3
        assert config.augment.label_smoothing == 0.2 and config.augment.repeated_augmentation == 2


def test_old_checkpoints_hold_the_same_bits(old_run):
    command, workdir = old_run
    variables = jax.device_get(load_run(workdir, STEP).variables)
    digest = hashlib.sha256()
    for path, array in sorted(flatten_dict(variables, sep="/").items()):
        digest.update(path.encode() + np.ascontiguousarray(array).tobytes())
    assert digest.hexdigest()[:16] == DIGESTS[command]


@pytest.mark.slow
def test_an_old_run_resumes_with_the_losses_that_it_would_have_had(old_run, one_device, tmp_path):
    """To the bit on the machine that wrote it; to rounding on any other."""
    command, workdir = old_run
    (tmp_path / "config.py").write_text(CONFIGS[command])
    main([command, f"--config={tmp_path / 'config.py'}", f"--workdir={workdir}"])
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["step"] > STEP]
    expected = json.loads((workdir / "expected.json").read_text())
    assert len(found) == len(expected)
    for now, before in zip(found, expected, strict=True):
        assert {name: now[name] for name in before} == pytest.approx(before, rel=1e-5)
