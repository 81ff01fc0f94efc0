"""Soft targets, erasing and mixing against NumPy definitions and their distributions."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fastmim_jax.data.mixing import Mix, apply_mix, draw_mix, mix, random_erasing, soft_targets

KEY = jax.random.key(0)
STATIC = ("mixup", "cutmix", "probability", "switch", "groups")
jit_mix = jax.jit(mix, static_argnames=STATIC)
jit_draw = jax.jit(draw_mix, static_argnames=(*STATIC, "size"))


def batch(count=16, size=(9, 11), channels=2, classes=5):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(count, *size, channels)).astype(np.float32)
    return images, np.asarray(soft_targets(rng.integers(classes, size=count), classes, 0.1))


def draws(groups=20000, size=(48, 64), **options):
    return Mix(*(np.asarray(x) for x in jit_draw(KEY, groups, size, **options)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets(smoothing):
    labels = np.array([3, 0, 6])
    result = soft_targets(labels, 7, smoothing)
    assert result.dtype == np.float32
    expected = np.eye(7)[labels] * (1 - smoothing) + smoothing / 7
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-7)


def erased(count, size, probability, channels=1):
    """Return images of 100 and more, the result, and (B, H, W) True where it is noise."""
    images = 100 + np.arange(count * size[0] * size[1] * channels, dtype=np.float32) % 1000
    images = images.reshape(count, *size, channels)
    result = np.asarray(jax.jit(random_erasing, static_argnums=2)(KEY, images, probability))
    return images, result, (result < 50).any(-1)


def rectangles(noisy):
    """(N, H, W), each a rectangle of True -> top, left, height, width, each (N,)."""
    rows, columns = noisy.any(2), noisy.any(1)
    assert (noisy == rows[:, :, None] & columns[:, None]).all()
    height, width = rows.sum(1), columns.sum(1)
    top, left = rows.argmax(1), columns.argmax(1)
    for edge, extent, inside in [(top, height, rows), (left, width, columns)]:
        index = np.arange(inside.shape[1])
        assert (inside == ((index >= edge[:, None]) & (index < (edge + extent)[:, None]))).all()
    return top, left, height, width


@pytest.mark.slow
def test_erases_one_rectangle_of_noise():
    images, result, noisy = erased(1500, (32, 40), 0.4, channels=2)
    assert ((result < 50).all(-1) == noisy).all()  # every channel
    assert (result[~noisy] == images[~noisy]).all()
    rectangles(noisy)
    assert noisy.any((1, 2)).mean() == pytest.approx(0.4, abs=0.04)  # 3 standard errors
    noise = result[noisy]
    assert noise.mean() == pytest.approx(0, abs=0.01) and noise.std() == pytest.approx(1, abs=0.01)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.01  # each channel has its own


@pytest.mark.slow
def test_erased_rectangles_are_spread_as_defined():
    size = 64
    *_, noisy = erased(2000, (size, size), 1.0)
    assert noisy.any((1, 2)).all()
    top, left, height, width = rectangles(noisy)
    # Half a pixel of rounding on each side.
    assert ((height + 0.5) * (width + 0.5) >= 0.02 * size**2).all()
    assert ((height - 0.5) * (width - 0.5) <= size**2 / 3).all()
    assert ((height + 0.5) / (width - 0.5) >= 0.3).all()
    assert ((height - 0.5) / (width + 0.5) <= 1 / 0.3).all()
    assert (height < size).all() and (width < size).all()
    quartiles = [0.25, 0.5, 0.75]
    for values, low, high in [
        (height * width / size**2, 0.02, 1 / 3),
        (np.log(height / width) / np.log(0.3), -1, 1),
        (top / (size - height), 0, 1),
        (left / (size - width), 0, 1),
    ]:
        wanted = low + (high - low) * np.array(quartiles)
        assert np.abs(np.quantile(values, quartiles) - wanted).max() < 0.05 * (high - low)
        assert values.min() < low + 0.03 * (high - low) and values.max() > high - 0.05 * (high - low)


@pytest.mark.slow
def test_erasing_tries_ten_rectangles():
    """Few fit into a strip; the share that is erased, against the definition in NumPy."""
    height, width, count = 6, 128, 40000
    rng = np.random.default_rng(0)
    area = rng.uniform(0.02, 1 / 3, (count, 10)) * height * width
    aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3), (count, 10)))
    fits = (np.round(np.sqrt(area * aspect)) < height) & (np.round(np.sqrt(area / aspect)) < width)
    expected = fits.any(1).mean()
    assert 0.6 < expected < 0.7  # 0.60 with nine
    *_, noisy = erased(6000, (height, width), 1.0)
    share = noisy.any((1, 2)).mean()
    assert share == pytest.approx(expected, abs=0.02)  # 3 standard errors
    assert (rectangles(noisy)[2] < height).all()


def test_no_rectangle_fits_or_probability_0():
    images, result, _ = erased(8, (1, 16), 1.0)  # no rectangle is less than one pixel high
    assert (result == images).all()
    assert random_erasing(KEY, images, 0.0) is images


@pytest.mark.slow
def test_lam_of_mixup():
    alpha = 0.3  # 0.8 is below
    drawn = draws(mixup=alpha, cutmix=0.0)
    assert not drawn.cut.any() and not drawn.box.any()
    # The variance of Beta(alpha, alpha); of 20,000 draws.
    assert drawn.lam.mean() == pytest.approx(0.5, abs=0.01)
    assert drawn.lam.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.003)


@pytest.mark.slow
def test_boxes_of_cutmix():
    """Against timm's box, simulated in NumPy, edge by edge."""
    size = 33, 17
    drawn = draws(mixup=0.0, cutmix=1.0, size=size)
    assert drawn.cut.all()
    rng = np.random.default_rng(0)
    sides = np.sqrt(1 - rng.beta(1, 1, 20000))
    edges = []
    for n in size:
        half, centre = (n * sides).astype(int) // 2, rng.integers(n, size=len(sides))
        edges.append([(centre - half).clip(0, n), (centre + half).clip(0, n)])
    (top, bottom), (left, right) = edges
    for got, wanted, n in zip(drawn.box.T, (top, left, bottom, right), 2 * size, strict=True):
        assert got.min() >= 0 and got.max() <= n
        assert got.mean() == pytest.approx(wanted.mean(), abs=0.01 * n)
        assert got.std() == pytest.approx(wanted.std(), abs=0.01 * n)
    lam = 1 - (bottom - top) * (right - left) / (size[0] * size[1])
    assert drawn.lam.mean() == pytest.approx(lam.mean(), abs=0.01)
    assert drawn.lam.std() == pytest.approx(lam.std(), abs=0.01)


@pytest.mark.slow
def test_kinds_and_probability():
    drawn = draws(mixup=0.8, cutmix=1.0, probability=0.7, switch=0.4)
    assert drawn.cut.mean() == pytest.approx(0.4, abs=0.015)
    own = drawn.lam[~drawn.cut]
    assert (own == 1).mean() == pytest.approx(0.3, abs=0.02)
    assert own[own < 1].var() == pytest.approx(1 / (4 * 2.6), abs=0.004)  # Beta(0.8, 0.8), not (1, 1)
    assert not drawn.box[~drawn.cut].any()
    top, left, bottom, right = drawn.box[drawn.cut].T
    area = (bottom - top) * (right - left)
    assert (area == 0).mean() == pytest.approx(0.3, abs=0.03)
    np.testing.assert_allclose(drawn.lam[drawn.cut], 1 - area / (48 * 64), rtol=0, atol=1e-7)


def test_both_alphas_0_are_refused():
    with pytest.raises(ValueError, match="both 0"):
        draw_mix(KEY, 2, (8, 8), mixup=0.0, cutmix=0.0)


def test_mixing_equals_the_definition():
    images, targets = batch(count=15)  # groups of 5, each with one image that is its own partner
    drawn = Mix(
        jnp.array([0.3, 0.8, 1.0], jnp.float32),
        jnp.array([False, True, True]),
        jnp.array([[0, 0, 0, 0], [2, 3, 7, 11], [4, 4, 4, 4]], jnp.int32),
    )
    mixed, soft = jax.jit(apply_mix)(drawn, images, targets)
    expected, expected_soft = images.copy(), targets.copy()
    for i in range(15):
        group, member = divmod(i, 5)
        partner, lam = group * 5 + 4 - member, float(drawn.lam[group])
        if drawn.cut[group]:
            top, left, bottom, right = drawn.box[group]
            expected[i, top:bottom, left:right] = images[partner, top:bottom, left:right]
        else:
            expected[i] = lam * images[i] + (1 - lam) * images[partner]
        expected_soft[i] = lam * targets[i] + (1 - lam) * targets[partner]
    np.testing.assert_allclose(mixed, expected, rtol=0, atol=1e-6)  # float32 around 3
    np.testing.assert_allclose(soft, expected_soft, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(mixed[5:], expected[5:])  # CutMix moves pixels and nothing else


@pytest.mark.slow
def test_lam_is_the_share_that_remains():
    count, size = 64, (32, 48)
    images = np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None, None], (count, *size, 1))
    drawn = draws(count // 2, size, mixup=0.0, cutmix=1.0)
    mixed, soft = jax.jit(apply_mix)(drawn, images, np.eye(count, dtype=np.float32))
    foreign = (np.asarray(mixed) != images).sum((1, 2, 3)).reshape(-1, 2)  # pairs
    share = 1 - foreign / (size[0] * size[1])
    assert len(np.unique(share)) > 20
    np.testing.assert_allclose(drawn.lam, share[:, 0], rtol=0, atol=1e-7)
    np.testing.assert_allclose(drawn.lam, share[:, 1], rtol=0, atol=1e-7)
    np.testing.assert_allclose(np.diagonal(soft), share.ravel(), rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_sum_to_one_and_the_key_decides(alphas):
    images, targets = batch()
    options = dict(mixup=alphas[0], cutmix=alphas[1], groups=4)
    mixed, soft = jit_mix(KEY, images, targets, **options)
    assert (mixed.shape, mixed.dtype) == (images.shape, images.dtype)
    np.testing.assert_allclose(soft.sum(1), 1, rtol=0, atol=1e-6)
    assert (jit_mix(KEY, images, targets, **options)[0] == mixed).all()
    assert (jit_mix(jax.random.key(1), images, targets, **options)[0] != mixed).any()


@pytest.mark.slow
def test_mixing_keeps_bfloat16():
    images, targets = batch()
    drawn = Mix(jnp.array([0.3]), jnp.array([False]), jnp.zeros((1, 4), jnp.int32))
    mixed, _ = jax.eval_shape(apply_mix, drawn, images.astype(jnp.bfloat16), targets)
    assert mixed.dtype == jnp.bfloat16


@pytest.mark.slow
def test_groups_are_independent():
    images, targets = batch(count=16)
    options = dict(mixup=0.8, cutmix=0.0, groups=4)
    mixed, soft = jit_mix(KEY, images, targets, **options)
    other, other_targets = images.copy(), targets.copy()
    other[4:8] += 1
    other_targets[4:8] = other_targets[4:8][::-1]
    changed, changed_soft = jit_mix(KEY, other, other_targets, **options)
    rest = np.r_[0:4, 8:16]
    assert (changed[rest] == mixed[rest]).all() and (changed_soft[rest] == soft[rest]).all()
    assert (changed[4:8] != mixed[4:8]).all()
    assert len(np.unique(draws(4, (9, 11), mixup=0.8, cutmix=0.0).lam)) == 4


@pytest.mark.slow
def test_unchanged_where_mixing_is_off():
    images, targets = batch()
    result = mix(KEY, images, targets, mixup=0.0, cutmix=0.0, groups=7)
    assert result[0] is images and result[1] is targets
    mixed, soft = jit_mix(KEY, images, targets, mixup=0.8, cutmix=1.0, probability=0.0, groups=2)
    assert (mixed == images).all() and (soft == targets).all()


def test_groups_must_divide_the_batch():
    images, targets = batch(count=10)
    drawn = Mix(jnp.ones(4), jnp.zeros(4, bool), jnp.zeros((4, 4), jnp.int32))
    with pytest.raises(ValueError, match="10 images in 4 groups, expected a divisor of 10"):
        apply_mix(drawn, images, targets)


@pytest.mark.slow
def test_eight_devices_give_what_one_gives():
    """With a group per device, the only communication is a predicate of the rejection sampling of lam."""
    images, targets = batch(count=32, size=(16, 16), channels=3)

    @jax.jit
    def augment(key, images, targets):
        erase_key, mix_key = jax.random.split(key)
        return mix(
            mix_key, random_erasing(erase_key, images, 0.5), targets, mixup=0.8, cutmix=1.0, groups=8
        )

    assert len(jax.devices()) == 8
    split = NamedSharding(Mesh(jax.devices(), "batch"), P("batch"))
    shards = jax.device_put((images, targets), split)
    alone, sharded = augment(KEY, images, targets), augment(KEY, *shards)
    for one, eight in zip(alone, sharded, strict=True):
        assert eight.sharding.is_equivalent_to(split, eight.ndim)
        np.testing.assert_array_equal(one, eight)
    program = augment.lower(KEY, *shards).compile().as_text()
    communicated = re.findall(r"= (\S+) (?:all-|collective-|reduce-scatter)\S*\(", program)
    assert set(communicated) <= {"pred[]"}
