"""Memory of devices and of compiled programs."""

import jax
import jax.numpy as jnp

from fastmim_jax.train import memory
from fastmim_jax.train.memory import describe_bytes, free_bytes, program_bytes
from fastmim_jax.train.sharding import make_mesh

GIB = 2**30


def test_devices_on_the_host_share_its_memory(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 8 * GIB)
    assert free_bytes(make_mesh(devices=jax.devices()[:1])) == 8 * GIB
    assert free_bytes(make_mesh(devices=jax.devices()[:8])) == GIB
    monkeypatch.setattr(memory, "address_space", lambda: 8 * GIB)  # two steps have addresses at a time
    assert free_bytes(make_mesh(devices=jax.devices()[:1])) == 4 * GIB


def test_a_donated_argument_counts_once():
    x = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    plain, donating = (jax.jit(lambda x: x + 1, donate_argnums=d).lower(x).compile() for d in ((), 0))
    assert program_bytes(plain) - program_bytes(donating) >= 0.9 * x.size * 4
    assert program_bytes(donating) >= x.size * 4


def test_numbers_are_readable():
    assert [describe_bytes(x) for x in (71.2e9, 1.5e8, 2e6)] == ["71.2 GB", "0.1 GB", "2.0 MB"]
