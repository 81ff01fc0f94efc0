"""Training in bfloat16: what is summed in float32, and losses close to those in float32."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax import create_method
from fastmim_jax.config import pretrain_config
from fastmim_jax.train import state, steps
from fastmim_jax.train.optimizer import make_optimizer
from helpers import initial

MAX_TERMS = 64  # of a sum in bfloat16, whose 8 bits cannot count beyond 256
PYRAMID = dict(widths=(8, 16, 16, 16), depths=(1, 1, 1, 1), heads=(1, 1, 1, 1))
BACKBONES = {
    "vit": dict(name="vit_ti16", patch_size=8, width=16, depth=1, heads=1),
    "swin": dict(name="swin_t", width=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1)),
    "pvt_v2": dict(name="pvt_v2_b0", **PYRAMID),
    "cmt": dict(name="cmt_ti", stem_width=8, **PYRAMID),
    "convnext": dict(name="convnext_t", widths=(8, 16, 16, 16), depths=(1, 1, 1, 1)),
    "mixmim": dict(name="mixmim_b", width=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1)),
}


def tiny(name, family, throw_ratio=0.0, dtype="bfloat16"):
    method = pretrain_config().method
    method.backbone.update(BACKBONES[family])
    block = {"vit": 16 if name == "fastmim" else 8}.get(family, 32)
    method.update(name=name, dtype=dtype, block_size=block, target="hog" if name == "fastmim" else "pixel")
    method.decoder.update(width=16, depth=1)
    method.partial.throw_ratio = throw_ratio
    if name == "localmim":
        method.update(local_layers=(1,), target_scales=(2,))
    return create_method(method)


def equations(jaxpr):
    """Yield all equations of a jaxpr, those of inner ones too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for item in value if isinstance(value, (tuple, list)) else (value,):
                item = getattr(item, "jaxpr", item)
                if hasattr(item, "eqns"):
                    yield from equations(item)


@pytest.mark.parametrize(
    "case",
    [
        ("simmim", "vit"),
        pytest.param(("mae", "vit", 0.5), marks=pytest.mark.exhaustive),  # PR-MIM
        pytest.param(("simmim", "swin"), marks=pytest.mark.slow),
        pytest.param(("mixmim", "mixmim", 0.25), marks=pytest.mark.slow),
        pytest.param(("fastmim", "pvt_v2"), marks=pytest.mark.slow),
        pytest.param(("localmim", "vit"), marks=pytest.mark.exhaustive),
        *(pytest.param(("fastmim", x), marks=pytest.mark.exhaustive) for x in ("vit", "convnext", "cmt")),
    ],
    ids=lambda case: "-".join(map(str, case)),
)
def test_no_long_sum_is_in_bfloat16(case):
    method = tiny(*case)
    images = jax.ShapeDtypeStruct((16, 64, 64, 3), jnp.float32)
    key = jax.random.key(0)
    variables = jax.eval_shape(method.init, {"params": key, "mask": key}, images)

    def loss(variables, images):
        out, _ = method.apply(variables, images, rngs={"mask": key}, mutable=["batch_stats"])
        return out.loss

    long_sums = [
        equation
        for equation in equations(jax.make_jaxpr(jax.grad(loss))(variables, images).jaxpr)
        if equation.primitive.name == "reduce_sum"
        and equation.outvars[0].aval.dtype == jnp.bfloat16
        and equation.invars[0].aval.size > MAX_TERMS * equation.outvars[0].aval.size
    ]
    assert not long_sums, f"{[equation.source_info.name_stack for equation in long_sums]}"


@pytest.mark.slow
def test_losses_of_20_updates_are_within_2_percent_of_float32():
    small = jax.random.normal(jax.random.key(1), (8, 8, 8, 3))
    batch = {"image": jax.image.resize(small, (8, 32, 32, 3), "cubic"), "flip": None}
    optimizer_of = partial(make_optimizer, betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.05)

    def losses(dtype):
        method = tiny("fastmim", "vit", dtype=dtype)
        keys = dict.fromkeys(("params", "mask"), jax.random.key(0))
        variables = initial.variables(method, keys, batch["image"])
        train_state = state.initial_state(variables, optimizer_of)
        optimizer, schedule = optimizer_of(train_state.params), lambda step: 1e-3
        options = dict(method=method, optimizer=optimizer, schedule=schedule, key=jax.random.key(2))
        step = partial(steps.pretrain_step, prepare=lambda images, flip: images, **options)

        def body(train_state, _):
            train_state, metrics = step(train_state, batch)
            return train_state, metrics["loss"]

        return jax.jit(lambda train_state: jax.lax.scan(body, train_state, length=20)[1])(train_state)

    exact, rounded = losses("float32"), losses("bfloat16")
    assert exact[-1] < 0.9 * exact[0]
    np.testing.assert_allclose(rounded, exact, rtol=0.02)
