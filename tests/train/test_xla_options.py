"""Compiler options of a mesh."""

from types import SimpleNamespace

import jax
import numpy as np

from fastmim_jax.train.sharding import make_mesh
from fastmim_jax.train.xla_options import RECOMMENDED, compiler_options, describe_options


def mesh_of(platform, size):
    devices = np.array([SimpleNamespace(platform=platform)] * size).reshape(size, 1)
    return SimpleNamespace(devices=devices, size=size)


def test_several_devices_have_the_recommended_options():
    for platform, options in RECOMMENDED.items():
        assert compiler_options(mesh_of(platform, 8), {}) == options
        assert compiler_options(mesh_of(platform, 1), {}) == {}
    assert compiler_options(make_mesh(devices=jax.devices()[:2])) == {}  # CPUs


def test_what_the_user_sets_is_left_to_the_user():
    environ = {
        "XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=false --xla_dump_to=/tmp/x",
        "LIBTPU_INIT_ARGS": "--xla_enable_async_all_gather=false",
    }
    gpu, tpu = (compiler_options(mesh_of(platform, 8), environ) for platform in ("gpu", "tpu"))
    assert len(gpu) == len(RECOMMENDED["gpu"]) - 1 and len(tpu) == len(RECOMMENDED["tpu"]) - 1
    assert "xla_gpu_enable_latency_hiding_scheduler" not in gpu
    assert "xla_enable_async_all_gather" not in tpu


def test_the_description_is_one_line():
    line = describe_options({"xla_a": True, "xla_b": 32})
    assert line == "xla_a=true xla_b=32"
