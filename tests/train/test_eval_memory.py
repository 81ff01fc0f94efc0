"""Batches of an evaluation that fit in memory: as many images as fit, or a sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.build import create_reader
from fastmim_jax.errors import OutOfMemoryError
from fastmim_jax.train import memory, sharding
from fastmim_jax.train.eval_memory import fit_eval_batch
from fastmim_jax.train.inference import ROWS, InferenceStage, compile_eval
from helpers import small

MB = 10**6


def use_memory(variables, batch):
    """Return a sum that needs an array of 1 MB for every image."""
    x = batch["image"].astype(jnp.float32).reshape(len(batch["image"]), -1)[:, :500]
    products = jnp.einsum("bi,bj->bij", x, x)
    return {"sum": jnp.sort(products, axis=1)[:, 0, 0] + variables["w"][0], "index": batch["index"]}


def stage_and_function(devices=1):
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    variables = {"w": jax.device_put(np.zeros(10 * MB, np.float32), sharding.replicated(mesh))}
    stage = InferenceStage(
        mesh=mesh,
        model=None,
        variables=variables,
        reader=create_reader(small.config()),
        eval_batch_size=64,
    )
    function = compile_eval("the test", use_memory, variables, mesh, sharding.batch_sharding(mesh))
    return stage, function


def fit(free, records=1000, devices=1):
    lines, (stage, function) = [], stage_and_function(devices)
    return fit_eval_batch(stage, function, records, lines.append, free), function, lines


@pytest.mark.slow
def test_a_batch_that_fits_is_kept_and_compiled_once():
    stage, function, lines = fit(1000 * MB, records=16)
    assert stage.eval_batch_size == 64 and not lines
    rows = {"image": np.zeros((16, *stage.reader.image_shape), np.uint8), "index": np.arange(16)}
    rows |= {name: np.zeros(16, bool) for name in ROWS if name not in rows}
    rows["label"] = np.zeros(16, np.int32)
    out = function(stage.variables, stage.to_devices(rows, 16, ROWS))
    assert out["index"].tolist() == list(range(16))
    assert function.jitted._cache_size() == 0  # the program that was judged


@pytest.mark.parametrize("free", [0, MB])
def test_an_image_that_does_not_fit_is_refused_with_numbers(free):
    with pytest.raises(OutOfMemoryError, match=r"^1 image at a time takes .*free: end other programs"):
        fit(free)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(devices):
    stage, function, lines = fit(int(20 * MB / memory.USABLE), devices=devices)
    assert 0 < stage.eval_batch_size // devices < 64 and stage.eval_batch_size % devices == 0
    needed = memory.compiled_bytes(
        function,
        stage.variables,
        stage.abstract_arrays(ROWS, stage.eval_batch_size, stage.reader.image_shape),
    )
    assert needed <= 60 * MB  # 40 of them for the variables
    (line,) = lines
    assert line.startswith(f"batches of {stage.eval_batch_size} images, as 64 images at a time take ")
    assert line.endswith(" MB are free") or line.endswith(" GB are free")
