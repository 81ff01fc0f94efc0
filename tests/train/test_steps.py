"""The update itself: what it depends on, accumulation, and non-finite gradients."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.build import create_reader
from fastmim_jax.train import steps
from fastmim_jax.train.augmentation import device_augmentation
from fastmim_jax.train.finetune import make_finetune_stage
from fastmim_jax.train.pretrain import make_pretrain_stage
from helpers import small
from helpers.sweeps import sweep

pytestmark = pytest.mark.slow

RANDOM = np.random.default_rng(0)
BATCH = {
    "image": RANDOM.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8),
    "flip": RANDOM.random(16) < 0.5,
}


@cache  # a stage has no state: its programs are traced once for all tests
def stage_of(**schedule):
    config = small.config(steps=60, **schedule)
    config.method.backbone.depth = 1
    return make_pretrain_stage(config, records=64, devices=jax.devices()[:1])


def losses(stage, count):
    state, found = stage.create(), []
    for _ in range(count):
        state, metrics = stage.step(state, BATCH)
        found.append(metrics)
    return state, found


def test_masks_depend_on_seed_and_step_alone():
    key = jax.random.key(3)
    noise = [np.asarray(steps.mask_noise(key, step, (4, 16))) for step in (0, 1, 0)]
    np.testing.assert_array_equal(noise[0], noise[2])
    assert (noise[0] != noise[1]).all()


def test_loss_falls_and_every_parameter_moves():
    stage = stage_of()
    before = jax.device_get(stage.create().params)
    state, found = losses(stage, 30)
    assert float(found[-1]["loss"]) < 0.7 * float(found[0]["loss"])
    jax.tree.map(lambda a, b: np.testing.assert_(np.any(a != np.asarray(b))), before, state.params)
    assert int(state.step) == 30 and int(state.skipped) == 0


def test_accumulation_changes_nothing_but_memory():
    whole, parts = (losses(stage_of(accumulation=n), 3) for n in (1, 4))
    for one, other in zip(whole[1], parts[1], strict=True):
        np.testing.assert_allclose(float(one["loss"]), float(other["loss"]), rtol=1e-5)
        np.testing.assert_allclose(float(one["grad_norm"]), float(other["grad_norm"]), rtol=1e-4)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("groups", "accumulation"), sweep([(1, 4), (2, 4), (4, 8)], [(4, 8)]))
def test_accumulation_keeps_the_pairs_of_mixmim(groups, accumulation):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    batch = {"image": images, "flip": random.random(16) < 0.5}

    def loss(accumulation):
        config = small.mixmim(small.config(accumulation=accumulation))
        config.method.groups = groups
        stage = make_pretrain_stage(config, records=64, devices=jax.devices()[:1])
        metrics = stage.step(stage.create(), batch)[1]
        return [float(metrics[name]) for name in ("loss", "grad_norm")]

    np.testing.assert_allclose(loss(accumulation), loss(1), rtol=1e-5)


@cache
def in_bfloat16(gradient_dtype="float32", accumulation=1):
    """The metrics of two steps in bfloat16."""
    config = small.config(accumulation=accumulation)
    config.method.dtype, config.optimizer.gradient_dtype = "bfloat16", gradient_dtype
    config.method.backbone.depth = 1
    stage = make_pretrain_stage(config, records=64, devices=jax.devices()[:1])
    return losses(stage, 2)[1]


@pytest.mark.parametrize("accumulation", sweep([1, 2], [2]))
def test_gradients_of_kernels_can_be_summed_in_bfloat16(accumulation):
    found, expected = in_bfloat16("bfloat16", accumulation), in_bfloat16()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(float(one["grad_norm"]), float(other["grad_norm"]), rtol=0.02)


def test_paths_are_dropped_in_updates_alone_and_each_time_anew():
    """SimMIM's published ViT drops them in pre-training."""
    config = small.config()
    config.method.backbone.drop_path = 0.8
    config.schedule.update(warmup_epochs=0.0)
    config.optimizer.base_lr = 0.0  # so that nothing else changes from update to update
    dropping = make_pretrain_stage(config, 64, jax.devices()[:1])
    config.method.backbone.drop_path = 0.0
    plain = make_pretrain_stage(config, 64, jax.devices()[:1])
    variables = dropping.create().eval_variables()
    one, other = (float(stage.loss(variables, BATCH, np.int32(0))) for stage in (dropping, plain))
    assert one == other
    found = [float(metrics["loss"]) for metrics in losses(dropping, 2)[1]]
    masked = [float(dropping.loss(variables, BATCH, np.int32(step))) for step in (0, 1)]
    assert min(abs(a - b) for a, b in zip(found, masked, strict=True)) > 1e-4
    assert found == [float(metrics["loss"]) for metrics in losses(dropping, 2)[1]]


def test_flip_mirrors_what_is_learned_from():
    stage = stage_of()
    variables = stage.create().eval_variables()
    turned = {"image": BATCH["image"][:, :, ::-1], "flip": ~BATCH["flip"]}
    one = float(stage.loss(variables, BATCH, np.int32(0)))
    other = float(stage.loss(variables, turned, np.int32(0)))
    assert one == other


class Poisoned:
    """The method, but its loss is not finite at chosen steps of the noise."""

    def __init__(self, method, threshold):
        self._method, self._threshold = method, threshold

    def __getattr__(self, name):
        return getattr(self._method, name)

    def apply(self, variables, images, noise, **options):
        out, collections = self._method.apply(variables, images, noise=noise, **options)
        bad = jnp.where(noise[0, 0] < self._threshold, jnp.nan, 1.0)
        return out._replace(loss=out.loss * bad), collections


def test_a_non_finite_update_changes_only_the_counters():
    stage = stage_of()
    state = stage.create()
    key = jax.random.key(5)
    first = [float(steps.mask_noise(key, step, (16, 16))[0, 0]) for step in range(8)]
    threshold = sorted(first)[3]  # three of the first eight steps are poisoned
    step = jax.jit(
        partial(
            steps.pretrain_step,
            method=Poisoned(stage.model, threshold),
            prepare=lambda image, flip: image / 255.0,
            optimizer=_optimizer(state),
            schedule=lambda step: 1e-3,
            key=key,
        )
    )
    skipped, in_row = 0, 0
    for index in range(8):
        before = jax.device_get(state)
        state, metrics = step(state, BATCH)
        same = all(
            np.array_equal(a, b)
            for a, b in zip(
                jax.tree.leaves((before.params, before.opt_state)),
                jax.tree.leaves(jax.device_get((state.params, state.opt_state))),
                strict=True,
            )
        )
        poisoned = first[index] < threshold
        skipped, in_row = skipped + poisoned, in_row + 1 if poisoned else 0
        assert same == poisoned
        assert int(metrics["skipped"]) == skipped and int(metrics["skipped_in_row"]) == in_row
    assert skipped == 3 and int(state.step) == 8


def test_views_of_an_image_have_disjoint_masks_in_every_micro_batch():
    """The noise of a step, as the method receives it in two micro-batches."""
    seen = []

    class Seen(Poisoned):
        def apply(self, variables, images, noise, **options):
            jax.debug.callback(lambda noise: seen.append(np.asarray(noise)), noise)
            return self._method.apply(variables, images, noise=noise, **options)

    stage = stage_of()
    state, key = stage.create(), jax.random.key(5)
    step = partial(
        steps.pretrain_step,
        method=Seen(stage.model, 0),
        prepare=lambda image, flip: image / 255.0,
        optimizer=_optimizer(state),
        schedule=lambda step: 1e-3,
        key=key,
        accumulation=2,
        mask_views=4,
    )
    jax.block_until_ready(jax.jit(step)(state, BATCH))
    jax.effects_barrier()
    noise = np.stack(seen[:2], axis=1).reshape(16, 16)  # micro-batches are strided
    visible = np.argsort(noise, axis=1)[:, : 16 - stage.model.num_masked(16)].reshape(4, -1)
    assert all(len(set(cells)) == len(cells) for cells in visible)
    expected = steps.mask_noise(key, 0, (4, 16))
    np.testing.assert_array_equal(noise[::4], expected)


def _optimizer(state):
    from fastmim_jax.train.optimizer import make_optimizer

    return make_optimizer(state.params, betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.05)


def test_trivial_losses_are_those_of_the_hidden_targets():
    from fastmim_jax.train.held_out import trivial_losses

    stage = stage_of()
    variables = stage.create().eval_variables()
    out, _ = stage.forward(variables, BATCH, np.int32(0))
    hidden = np.asarray(out.target)[np.asarray(out.mask) > 0]
    found = trivial_losses(stage, variables, 16, [BATCH])
    assert found["zero"] == pytest.approx(np.mean(hidden**2), rel=1e-5)
    assert found["mean target"] == pytest.approx(np.mean((hidden - hidden.mean(0)) ** 2), rel=1e-5)


def test_bfloat16_agrees_with_float32_and_keeps_the_loss_in_float32():
    reduced = in_bfloat16()[1]["loss"]
    assert reduced.dtype == jnp.float32
    np.testing.assert_allclose(float(reduced), float(losses(stage_of(), 2)[1][1]["loss"]), rtol=0.02)


LABELLED = {**BATCH, "label": RANDOM.integers(4, size=16, dtype=np.int32)}


@cache
def tuning_of(devices=1, fsdp=1, **schedule):
    """Fine-tuning with RandAugment left to the loader, and all that the step itself does at random."""
    config = small.tuning(**schedule)
    config.run.mesh_fsdp = fsdp
    return make_finetune_stage(config, 64, tuple("abcd"), devices=jax.devices()[:devices])


def tuned(stage, count):
    """-> (states, metrics) after each of so many steps from the beginning."""
    state, states, found = stage.create(), [], []
    batch = stage.to_devices(LABELLED, 16)
    for _ in range(count):
        state, metrics = stage.step(state, batch)
        states.append(jax.device_get(state))
        found.append({name: float(x) for name, x in metrics.items()})
    return states, found


@pytest.fixture(scope="module")
def tuned_on_one():
    return tuned(tuning_of(accumulation=2), 4)


def test_finetuning_is_the_same_on_any_number_of_devices(tuned_on_one):
    """2 x 4 devices that share the parameters, with mixing, erasing, drop path, averages, accumulation."""
    one, other = tuned_on_one, tuned(tuning_of(8, fsdp=4, accumulation=2), 4)
    for mine, theirs in zip(one[1], other[1], strict=True):
        # Sums over the batch in another order: observed 1e-6.
        np.testing.assert_allclose(mine["loss"], theirs["loss"], rtol=1e-5)
        np.testing.assert_allclose(mine["grad_norm"], theirs["grad_norm"], rtol=1e-4)
    last, same = one[0][-1].ema["params"], other[0][-1].ema["params"]
    begun = jax.device_get(tuning_of(accumulation=2).create().params)
    moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (last, begun)), strict=True)]
    apart = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (last, same)), strict=True)]
    assert max(apart) < 0.01 * max(moved)  # of single weights: Adam amplifies the smallest gradients


def test_finetuning_is_repeated_by_its_seed_and_nothing_else(tuned_on_one):
    again = tuned(tuning_of(accumulation=2), 2)
    assert again[1] == tuned_on_one[1][:2]
    config = small.tuning(accumulation=2)
    config.seed = 1
    other = make_finetune_stage(config, 64, tuple("abcd"), devices=jax.devices()[:1])
    assert tuned(other, 1)[1][0]["grad_norm"] != again[1][0]["grad_norm"]


def test_averages_are_sums_of_all_weights_before(tuned_on_one):
    states, _ = tuned_on_one
    expected = jax.device_get(tuning_of(accumulation=2).create().params)
    for state in states:
        expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, expected, state.params)
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), state.ema["params"], expected)
        assert state.eval_variables()["params"] is state.ema["params"]


def test_no_drawing_twice_in_one_run():
    """The same batch is erased and mixed anew in every step."""
    config = small.tuning()
    augment = jax.jit(device_augmentation(config.augment, create_reader(config).normalize, 4, groups=1))
    keys = [jax.random.key(step) for step in (0, 1, 0)]
    images, targets = zip(*(augment(key, LABELLED) for key in keys), strict=True)
    assert np.any(images[0] != images[1]) and np.any(targets[0] != targets[1])
    np.testing.assert_array_equal(images[0], images[2])
    np.testing.assert_allclose(np.sum(targets, axis=-1), 1, atol=1e-6)
