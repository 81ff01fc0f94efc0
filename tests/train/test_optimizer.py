"""Weight-decay groups, schedules and 20 training steps against the published code."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from fastmim_jax import create_model
from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.names import to_ours, to_theirs
from fastmim_jax.models.heads import Classifier
from fastmim_jax.train import steps
from fastmim_jax.train.optimizer import (
    decay_groups,
    layer_lr_scales,
    make_optimizer,
    make_schedule,
    no_decay_names,
)
from fastmim_jax.train.state import TrainState
from helpers import published, small
from helpers.sweeps import sweep

SCHEDULES = published.load("schedules")[0]


@pytest.mark.parametrize("family", small.BACKBONES)
def test_weight_decay_groups_equal_published(family):
    """As timm's add_weight_decay without a skip list: all but vectors and biases, tables and tokens too."""
    cases, _ = published.load(f"fastmim_{family}")
    weights = published.weights(cases, "hog_norm1")
    params = to_ours(weights, f"fastmim_{family}")["params"]
    groups = flatten_dict(decay_groups(params), sep="/")
    for name, value in weights.items():
        if "running_" in name:
            continue
        path = next(iter(flatten_dict(to_ours({name: value}, f"fastmim_{family}")["params"], sep="/")))
        decays = value.ndim > 1 and not name.endswith(".bias")
        assert groups.pop(path) == ("decay" if decays else "no_decay"), name
    assert not groups


NO_DECAY = {"vit": ("cls_token",), "swin": ("mask_token",)}  # beside positions: by `no_weight_decay`


@pytest.mark.parametrize("family", NO_DECAY)
def test_weight_decay_groups_of_simmim_equal_published(family):
    cases, _ = published.load(f"simmim_{family}")
    for name in cases:
        weights = published.weights(cases, name)
        groups = decay_groups(to_ours(weights, f"simmim_{family}")["params"], NO_DECAY[family])
        decays = {path: np.asarray(x == "decay") for path, x in flatten_dict(groups, sep="/").items()}
        for key, value in weights.items():
            path = next(iter(flatten_dict(to_ours(paired(key, weights), f"simmim_{family}")["params"])))
            no_decay = (*NO_DECAY[family], "pos_embed", "absolute_pos_embed")
            expected = value.ndim > 1 and key.split(".")[-1] not in no_decay
            assert decays["/".join(path)] == expected, key


def paired(key, weights):
    """The array of this name, and the one that belongs to it."""
    names = {key, key.replace("q_bias", "v_bias"), key.replace("v_bias", "q_bias")}
    return {name: weights[name] for name in names}


def test_a_parameter_without_a_group_is_refused():
    with pytest.raises(ValueError, match="surprise is in 0 weight-decay groups"):
        decay_groups({"surprise": jnp.zeros(3)})
    with pytest.raises(UserError, match="no_decay has absolute_pos_embed, but no parameter has that name"):
        decay_groups({"bias": jnp.zeros(3)}, no_decay=("absolute_pos_embed", "bias"))


@pytest.mark.parametrize("case", SCHEDULES["cosine"] + SCHEDULES["step"])
def test_learning_rates_equal_published(case):
    options = dict(peak=case["lr"], floor=case["min_lr"], warmup=case["warmup_epochs"])
    if "decay_epoch" in case:
        options.update(shape="step", decay_epochs=case["decay_epoch"])
    options.update(start=case.get("warmup_lr", 0.0))
    rate = make_schedule(total=case["epochs"], **options)
    for epoch, expected, *_ in case["values"]:
        ours = float(rate(epoch))
        # float32: one part in 1e6 of the peak, where the published float64 reaches 0 at the end.
        assert abs(ours - expected) < 1e-6 * case["lr"], epoch


def _with_ratio(case):
    return {**case, "mask_ratio": case["config"]["mask_ratio"]}


TRAJECTORIES = {  # method, batch, side of the images
    "fastmim_vit": (lambda case: small.published_method("vit", _with_ratio(case)), 8, 64),
    "mae_vit": (lambda case: small.published_mae(_with_ratio(case)), 8, 64),
    "mixmim": (lambda case: small.published_mixmim(_with_ratio(case)), 4, 96),
}


def start(case, numbers, table, **options):
    """Return (TrainState, options of `steps.update`) of a published trajectory."""
    first = {k[8:]: v for k, v in numbers.items() if k.startswith("weights/")}
    params = jax.tree.map(jnp.asarray, to_ours(first, table)["params"])
    recipe, times = case["optimizer"], case["schedule"]
    options = {name: make(params) for name, make in options.items()}
    recipe = dict(betas=recipe["betas"], epsilon=recipe["eps"], weight_decay=recipe["weight_decay"])
    optimizer = make_optimizer(params, **recipe, **options)

    bounds = dict(warmup=times["warmup_epochs"], total=times["epochs"])
    rate = make_schedule(peak=times["lr"], floor=times["min_lr"], **bounds)

    def schedule(step):
        return rate(step / case["iters_per_epoch"])

    zero = jnp.zeros((), jnp.int32)
    state = TrainState(zero, params, {}, optimizer.init(params), zero, zero)
    return state, dict(optimizer=optimizer, schedule=schedule, key=jax.random.key(0))


def assert_follows(step, state, batch, numbers, table):
    """Twenty steps have the published losses, gradient norms, learning rates and last weights."""
    for index in range(20):
        state, metrics = step(state, batch)
        # 1e-3 relative as agreed; observed below 1e-5 (the published float32 and float64: 1e-6).
        for figure, tolerance in (("loss", 1e-3), ("grad_norm", 1e-3), ("lr", 1e-6)):
            expected = numbers[figure][index]
            assert abs(float(metrics[figure]) - expected) <= tolerance * abs(expected) + 1e-9, figure
    for path, value in to_theirs({"params": state.params}, table).items():
        expected, value = numbers[f"final/{path}"].ravel(), value.ravel()
        keep = np.ones(len(value), bool)
        if path.endswith("qkv.bias"):  # its key third has no gradient but rounding, which Adam amplifies
            keep[len(value) // 3 : 2 * len(value) // 3] = False
        every = 1 if len(value) == len(expected) else 16  # of some last weights 1 in 16 is there
        kept = keep[::every]
        np.testing.assert_allclose(value[::every][kept], expected[kept], atol=1e-4, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep(TRAJECTORIES, ["fastmim_vit"]))
def test_twenty_steps_follow_the_published_trajectory(name, monkeypatch):
    case, numbers = published.load(f"trajectory_{name}")
    make, count, side = TRAJECTORIES[name]
    noise, method = jnp.asarray(numbers["noise"]), make(case)
    monkeypatch.setattr(steps, "mask_noise", lambda key, step, shape: noise[step])
    state, training = start(case, numbers, name)
    step = partial(steps.pretrain_step, method=method, prepare=lambda image, flip: image, **training)
    batch = {"image": published.images(case["seed"], count, side, side), "flip": np.zeros(count, bool)}
    assert_follows(jax.jit(step), state, batch, numbers, name)


def as_given(key, batch):
    """Neither augmented nor mixed, with labels that are soft already."""
    return batch["image"], batch["label"]


@pytest.mark.slow
def test_twenty_steps_of_finetuning_follow_the_published_trajectory():
    case, numbers = published.load("trajectory_finetune_vit")
    sizes, table = small.BACKBONES["vit"](case["config"]), "fastmim_vit_classifier"
    model = Classifier(create_model(**sizes, positions="learned"), case["config"]["num_classes"])
    decay = case["config"]["layer_decay"]
    state, training = start(
        case,
        numbers,
        table,
        no_decay=lambda params: no_decay_names(params, model.encoder, official=True),
        scales=lambda params: layer_lr_scales(params, model.encoder, decay, official=True),
    )
    step = partial(steps.finetune_step, model=model, prepare=as_given, **training)
    batch = {"image": published.images(case["seed"], 8, 64, 64), "label": numbers["soft_labels"]}
    assert_follows(jax.jit(step), state, batch, numbers, table)
