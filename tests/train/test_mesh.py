"""Meshes of hardware that is not here: slices of TPUs, nodes of GPUs."""

import dataclasses
import itertools
import os

import jax
import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.train import sharding

TPU_KINDS = {"v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
SHAPES = [("v5e", (16, 16)), ("v5p", (8, 8, 16)), ("v6e", (16, 16))]
ENVIRONMENT = {  # for libtpu where there is no TPU
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclasses.dataclass(frozen=True)
class Device:
    """The attributes of a device that a layout reads."""

    id: int
    process_index: int
    slice_index: int
    platform: str
    device_kind: str
    coords: tuple[int, ...] = (0, 0, 0)
    core_on_chip: int = 0


def tpus(generation, shape, slices=1):
    """Return the chips of slices, 2 x 2 chips a host."""
    shape = (*shape, 1)[:3]
    hosts = {}
    devices = []
    for index in range(slices):
        for coords in itertools.product(*map(range, shape)):
            host = hosts.setdefault((index, coords[0] // 2, coords[1] // 2, coords[2]), len(hosts))
            kind = TPU_KINDS[generation]
            devices.append(Device(len(devices), host, index, "tpu", kind, coords))
    return devices


def gpus(nodes, each, of_process=None, slices=True):
    of_process = of_process or each
    return [
        Device(i, i // of_process, i // each if slices else 0, "gpu", "NVIDIA H100 80GB HBM3")
        for i in range(nodes * each)
    ]


def check_rows(grid):
    """Check that processes own disjoint and equally many rows of a batch, and all of them."""
    batch = 2 * grid.size
    rows = np.arange(batch).reshape(grid.size, 2)
    owned = {}
    for device, part in zip(grid.ravel(), rows, strict=True):
        owned.setdefault(device.process_index, []).extend(part)
    assert sorted(itertools.chain(*owned.values())) == list(range(batch))
    assert len({len(part) for part in owned.values()}) == 1


@pytest.mark.parametrize("fsdp", [1, 4, 16])
@pytest.mark.parametrize(("generation", "shape"), SHAPES)
def test_every_slice_has_a_mesh(generation, shape, fsdp):
    devices = tpus(generation, shape)
    grid = sharding.device_grid(fsdp, devices)
    assert grid.shape == (len(devices) // fsdp, fsdp) and set(grid.ravel()) == set(devices)
    check_rows(grid)


@pytest.mark.parametrize("fsdp", [1, 4, 16])
@pytest.mark.parametrize("slices", [2, 4])
def test_slices_share_the_batch_and_not_the_parameters(slices, fsdp):
    devices = tpus("v5e", (4, 4), slices)
    grid = sharding.device_grid(fsdp, devices)
    assert grid.shape == (16 * slices // fsdp, fsdp) and set(grid.ravel()) == set(devices)
    assert all(len({device.slice_index for device in row}) == 1 for row in grid)
    check_rows(grid)


@pytest.mark.parametrize("of_process", [1, 8])
@pytest.mark.parametrize("slices", [False, True])
def test_parameters_are_split_inside_a_node_of_gpus(of_process, slices):
    devices = gpus(4, 8, of_process, slices)
    devices = devices[16:] + devices[:16]  # JAX orders them by process, which need not be by node
    for fsdp in (1, 2, 8):
        grid = sharding.device_grid(fsdp, devices)
        assert grid.shape == (32 // fsdp, fsdp)
        assert all(len({device.id // 8 for device in row}) == 1 for row in grid)
        check_rows(grid)
    grid = sharding.device_grid(16, devices)  # two nodes share the parameters
    assert all({device.id // 8 for device in row} in ({0, 1}, {2, 3}) for row in grid)


def test_uneven_slices_are_refused():
    with pytest.raises(UserError, match="slices have 8, 8, 4 devices: use slices of one size"):
        sharding.device_grid(4, gpus(3, 8)[:20])
    with pytest.raises(UserError, match="mesh_fsdp is 12, .* 8 devices of a slice .*: type .*mesh_fsdp=4"):
        sharding.device_grid(12, gpus(3, 8))


def test_devices_of_this_machine_keep_their_order():
    mesh = sharding.make_mesh(2, jax.devices())
    assert mesh.devices.ravel().tolist() == jax.devices() and mesh.axis_names == ("data", "fsdp")


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 4, 16])
@pytest.mark.parametrize(
    ("name", "slices"),
    [("v5e:16x16", 1), ("v5p:8x8x16", 1), ("v6e:16x16", 1), ("v5e:4x4", 2), ("v5e:16x16", 4)],
)
def test_real_topologies_have_meshes(name, slices, fsdp, monkeypatch):
    pytest.importorskip("libtpu", reason='needs libtpu: pip install "fastmim_jax[tpu]"')
    from jax.experimental import topologies

    for variable, value in ENVIRONMENT.items():
        monkeypatch.setitem(os.environ, variable, value)
    more = {"num_slices": slices} if slices > 1 else {}
    devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **more).devices
    mesh = sharding.make_mesh(fsdp, devices)
    assert mesh.devices.shape == (len(devices) // fsdp, fsdp)
    processes = {device.process_index for device in devices}
    batch = sharding.batch_sharding(mesh)
    check_rows(mesh.devices)
    some = sorted(processes)[:: max(1, len(processes) // 8)]
    rows = [sharding.owned_rows(batch, len(devices), process) for process in some]
    assert {len(own) for own in rows} == {len(devices) // len(processes)}
    assert len(set(np.concatenate(rows))) == sum(map(len, rows))
