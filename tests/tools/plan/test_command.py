"""The plan of a tiny run, compiled for CPUs in place of chips; our FLOPs against a count by hand."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from fastmim_jax.config import pretrain_config
from fastmim_jax.errors import UserError
from fastmim_jax.tools.flops import matrix_flops
from fastmim_jax.tools.plan import command
from fastmim_jax.tools.plan.figures import cost_analysis
from fastmim_jax.tools.plan.search import StageCandidates
from fastmim_jax.train.pretrain import make_pretrain_stage
from helpers import small


@pytest.fixture
def on_cpus(monkeypatch):
    monkeypatch.setattr(command, "_prepare_jax", lambda topology: None)
    monkeypatch.setattr(command, "open_devices", lambda topology: jax.devices()[: topology.chips])


@pytest.mark.slow
def test_a_plan(on_cpus, tmp_path):
    lines, out = [], tmp_path / "plan.json"
    config = small.config(batch_size=8, accumulation="auto")
    assert command.plan(config, "v5e:2x2", batch=16, records=64, out=str(out), log=lines.append) == 0
    assert lines[0].startswith("planned for v5e:2x2 (4 x TPU v5 lite, 1 slice), compiled by jax")
    typed = ["--config.schedule.batch_size=16", "--config.schedule.accumulation=1"]
    assert lines[-1] == f"to train so, type: {' '.join(typed)}"
    written = json.loads(out.read_text())
    (stage,) = written["stages"]
    assert f"compiled with accumulation 1: a step needs {stage['total_bytes'] / 2**30:.2f} GiB" in lines[2]
    assert written["flags"] == typed and stage["total_bytes"] == sum(stage["memory"].values())
    assert stage["memory"]["optimizer"] > 1.9 * stage["memory"]["parameters"] > 0
    assert stage["collectives"]["all-reduce"][1] >= stage["memory"]["parameters"]
    assert stage["matrix_flops"] > 0 and stage["hours_at_least"] > 0


@pytest.mark.slow
def test_nothing_fits_is_exit_code_1(on_cpus, monkeypatch):
    tiny = dataclasses.replace(command.parse_topology("v5e:1x1").chip, program_bytes=1000.0)
    topology = command.parse_topology("v5e:1x1")._replace(chip=tiny)
    monkeypatch.setattr(command, "parse_topology", lambda name: topology)
    monkeypatch.setattr(StageCandidates, "compile", lambda self, number: 2.0**30)
    lines = []
    assert command.plan(small.config(batch_size=2), "v5e:1x1", log=lines.append) == 1
    assert lines[-1].startswith("nothing fits: a step needs ")


def test_a_batch_for_every_stage_is_no_single_batch():
    config = pretrain_config()
    config.stages.batch_sizes = (4096, 2048)
    with pytest.raises(UserError, match="type --config.stages.batch_sizes"):
        command.plan(config, "v5e:2x4", batch=1024)


def test_costs_of_a_program_on_a_cpu():
    x = jax.ShapeDtypeStruct((8, 8), np.float32)
    assert cost_analysis(jax.jit(lambda x: x @ x).lower(x).compile())["flops"] >= 2 * 8**3


@pytest.mark.slow
def test_flops_of_vit_b_are_those_of_a_count_by_hand():
    """FastMIM ViT-B/16 at 128 px: 64 patches, a class token, 108 HOG values a patch; backward is twice."""
    tokens, patches, width, narrow = 65, 64, 768, 256

    def block(width):
        linear = 2 * tokens * width * (3 * width + width + 2 * 4 * width)
        return linear + 2 * 2 * tokens**2 * width

    embedding = 2 * patches * width * width
    decoder = 2 * tokens * width * narrow + block(narrow) + 2 * patches * narrow * 108
    # The images need no gradient.
    by_hand = 3 * (12 * block(width) + decoder) + 2 * embedding
    config, batch = pretrain_config(), 2
    config.schedule.batch_size = batch
    stage = make_pretrain_stage(config, 64, jax.devices()[:1])
    counted = matrix_flops(stage.step.jitted.__wrapped__, stage.abstract, stage.abstract_batch())
    assert counted / batch == pytest.approx(by_hand, rel=0.02)
