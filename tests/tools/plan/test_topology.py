"""Names of topologies, and what is said where a compiler is missing."""

import importlib.util

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.tools.flops import peak_flops
from fastmim_jax.tools.plan.chips import CHIPS, GIB
from fastmim_jax.tools.plan.topology import TARGETS, open_devices, parse_topology


@pytest.mark.parametrize(
    ("name", "shape", "slices", "chips"),
    [
        ("v5e:2x4", (2, 4), 1, 8),
        ("v5p:4x4x4", (4, 4, 4), 1, 64),
        ("v6e:16x16", (16, 16), 1, 256),
        ("v5e:16x16x2slices", (16, 16), 2, 512),
        ("v5p:8x8x16x4slices", (8, 8, 16), 4, 4096),
        ("h100:8", (8,), 1, 8),
        ("a100:2x8", (8,), 2, 16),
    ],
)
def test_names(name, shape, slices, chips):
    topology = parse_topology(name)
    assert (topology.shape, topology.slices, topology.chips) == (shape, slices, chips)
    assert f"{chips} x " in str(topology) and topology.chip is CHIPS[name.partition(":")[0]]


@pytest.mark.parametrize(
    "name", ["", "v5e", "v9:2x2", "v5e:", "h100", "mi300:8", "v5e:2x4x", "v5e:2x4slices"]
)
def test_unknown_names_list_what_is_accepted(name):
    with pytest.raises(UserError, match="choose from: .*2x4.*h100.*x2slices|choose from: v5e:.*x2slices"):
        parse_topology(name)


@pytest.mark.parametrize(
    "name", ["v5e:3x5", "v5p:4x4", "h100:7", "h100:2x2x2", "v6e:2x2x900slices", "a100:0x8"]
)
def test_shapes_that_do_not_exist(name):
    kind = name.partition(":")[0]
    with pytest.raises(UserError, match=f"--topology={name} does not exist; choose from: {kind}:"):
        parse_topology(name)


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("v5e:2x4", r'type pip install "fastmim_jax\[tpu\]"'),
        ("h100:8", "type python3.12 -m venv .*cuda13-pjrt"),
    ],
)
def test_a_missing_compiler_is_named(monkeypatch, name, typed):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=typed):
        open_devices(parse_topology(name))


def test_every_chip_has_a_peak_and_every_gpu_a_description():
    for name, chip in CHIPS.items():
        assert peak_flops(chip.kind) == chip.peak_flops
        if chip.platform == "gpu":
            text = (TARGETS / f"{name}.txtpb").read_text()
            assert f"device_memory_size: {chip.memory_bytes}" in text and chip.kind in text


def test_of_a_gpu_the_share_that_jax_allocates_counts():
    chip = CHIPS["h100"]
    assert chip.usable_bytes({}) == 0.75 * chip.memory_bytes
    assert chip.usable_bytes({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}) == 0.9 * chip.memory_bytes
    assert CHIPS["v5e"].usable_bytes({}) == 15.75 * GIB
