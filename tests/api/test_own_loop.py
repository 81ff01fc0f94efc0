"""A loop of one's own, in the lines that the documentation shows."""

import numpy as np
import pytest

from fastmim_jax.api.own_loop import Step
from helpers.shallow import shallow_configs

LOOP = """
import numpy as np

import fastmim_jax

photos = np.random.default_rng(0).integers(0, 256, (64, 64, 64, 3), dtype=np.uint8)
method, step = fastmim_jax.make_step("configs/own.py:tiny", records=len(photos), epochs=2)
state = step.init()
for epoch in range(2):
    for start in range(0, len(photos), step.batch_size):
        state, metrics = step(state, photos[start : start + step.batch_size])
    print(epoch, float(metrics["loss"]))
variables = state.eval_variables()  # of `method`, a Flax module
"""


@pytest.mark.slow
def test_fifteen_lines_train(one_device, capsys, monkeypatch):
    shallow_configs(monkeypatch)
    assert len(LOOP.strip().splitlines()) <= 15
    found = {}
    exec(LOOP, found)
    assert isinstance(found["step"], Step) and found["step"].batch_size == 32
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines() if line[:1] in "01"]
    assert len(losses) == 2 and np.isfinite(losses).all() and int(found["state"].step) == 4
    assert found["method"].encoder.family == "vit" and "encoder" in found["variables"]["params"]
