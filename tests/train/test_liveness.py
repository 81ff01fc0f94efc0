"""The estimated memory of a program."""

import jax
import jax.numpy as jnp

from fastmim_jax.train.liveness import peak_bytes
from fastmim_jax.train.memory import argument_bytes
from fastmim_jax.train.sharding import batch_sharding, make_mesh

X = jax.ShapeDtypeStruct((1000,), jnp.float32)


def peak(function, *args):
    return peak_bytes(jax.make_jaxpr(function)(*args).jaxpr)


def test_a_chain_holds_two_arrays_at_once():
    assert peak(lambda x: jnp.sin(jnp.cos(jnp.sin(x))), X) == 2 * 4000


def test_residuals_are_held_until_the_backward_pass():
    def loss(x):
        for _ in range(5):
            x = jnp.sin(x)
        return x.sum()

    assert peak(jax.grad(loss), X) >= 5 * 4000


def test_what_is_fused_takes_no_memory_but_keeps_its_source():
    assert peak(lambda x: jnp.broadcast_to(x, (50, 1000)).sum(), X) < 4 * 4000
    held = peak(lambda x: (jnp.sin(x).astype(jnp.bfloat16), jnp.cos(jnp.cos(x))), X)
    assert held == 3 * 4000


def test_a_loop_holds_the_carry_twice_and_its_own_results():
    def body(x, _):
        return jnp.sin(x), jnp.cos(x)

    assert peak(lambda x: jax.lax.scan(body, x, None, length=10), X) >= (10 + 2) * 4000


def test_arguments_are_those_of_one_device():
    spread = batch_sharding(make_mesh(devices=jax.devices()[:4]))
    assert argument_bytes({"x": jax.ShapeDtypeStruct((8, 10), jnp.float32, sharding=spread)}) == 80


def test_a_shard_counts_once_for_every_device():
    def sines(x):
        return jnp.sin(jnp.cos(x)).sum()

    mesh = make_mesh()
    rows = batch_sharding(mesh).spec
    options = dict(mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
    split = jax.shard_map(lambda x: sines(x)[None], **options)
    assert 8000 <= peak(sines, X) <= peak(split, X) <= peak(sines, X) + 100
