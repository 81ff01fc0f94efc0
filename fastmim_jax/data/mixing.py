"""Soft targets, random erasing, mixup and CutMix, inside the jitted step.

Source: timm's `mixup.py` and `random_erasing.py`, which MAE, SimMIM, MixMIM and FastMIM fine-tune with.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

AnyArray = jax.Array | np.ndarray

ERASED_AREA = (0.02, 1 / 3)  # share of the image
ERASED_LOG_ASPECT = (math.log(0.3), -math.log(0.3))  # of height / width
ATTEMPTS = 10


def soft_targets(labels: AnyArray, num_classes: int, smoothing: float) -> jax.Array:
    """Return targets with label smoothing, spread over all classes, the true one included.

    Args:
      labels: (B,) int.
      num_classes: K.
      smoothing: in [0, 1]; 0 is one-hot.

    Returns:
      (B, K) float32, rows of sum 1.
    """
    off = smoothing / num_classes
    one_hot = labels[:, None] == jnp.arange(num_classes)
    return jnp.where(one_hot, jnp.float32(1 - smoothing + off), jnp.float32(off))


def random_erasing(key: jax.Array, images: AnyArray, probability: float) -> AnyArray:
    """Erase a rectangle (arXiv 1708.04896) with noise per pixel and channel.

    Ten rectangles are drawn, with an area uniform in [0.02, 1/3] of the image and a log-uniform
    height / width in [0.3, 1/0.3]. The first that is lower and narrower than the image is erased, at a
    uniform position.

    Args:
      key: JAX random key.
      images: (B, H, W, C) floats, normalised.
      probability: probability that an image is erased, a Python float.

    Returns:
      (B, H, W, C), N(0, 1) in the rectangles; an image in which no rectangle fits is unchanged.
    """
    if probability == 0:
        return images
    box_key, noise_key = jax.random.split(key)
    box = _erased_boxes(box_key, images.shape[0], images.shape[1:3], probability)
    noise = jax.random.normal(noise_key, images.shape).astype(images.dtype)
    return jnp.where(_inside(box, images.shape[1:3])[..., None], noise, images)


class Mix(NamedTuple):
    """Mixing parameters of each group of a batch.

    lam: (G,) float32, the weight of an image; its partner has weight 1 - lam.
    cut: (G,) bool, True for CutMix, False for mixup.
    box: (G, 4) int32 (top, left, bottom, right) in pixels, the box that CutMix takes from the partner.
    """

    lam: jax.Array
    cut: jax.Array
    box: jax.Array


def draw_mix(
    key: jax.Array,
    groups: int,
    size: tuple[int, int],
    *,
    mixup: float,
    cutmix: float,
    probability: float = 1.0,
    switch: float = 0.5,
) -> Mix:
    """Draw the mixing parameters of each group.

    A box has sides of sqrt(1 - lam) of the image around a uniform pixel and is clipped to the image; lam
    becomes the share of the image outside of it (CutMix, arXiv 1905.04899; `rand_bbox` in timm's
    `mixup.py`).

    Args:
      key: JAX random key.
      groups: number of groups, G.
      size: (height, width) of the images in pixels.
      mixup, cutmix: alpha of lam ~ Beta(alpha, alpha), Python floats; 0 turns one off, but not both.
      probability: probability that a group is mixed; lam = 1 otherwise.
      switch: probability of CutMix if both alphas are above 0.

    Raises:
      ValueError: mixup and cutmix are both 0.
    """
    if not (mixup or cutmix):
        raise ValueError("mixup and cutmix are both 0, expected an alpha above 0")
    cut_probability = switch if mixup and cutmix else float(bool(cutmix))
    mixed_key, cut_key, lam_key, top_key, left_key = jax.random.split(key, 5)
    mixed = jax.random.bernoulli(mixed_key, probability, (groups,))
    cut = jax.random.bernoulli(cut_key, cut_probability, (groups,))
    alpha = jnp.where(cut, jnp.float32(cutmix or mixup), jnp.float32(mixup or cutmix))
    lam = jnp.where(mixed, jax.random.beta(lam_key, alpha, alpha), 1)

    sides = [_span(k, n, n * jnp.sqrt(1 - lam)) for k, n in ((top_key, size[0]), (left_key, size[1]))]
    (top, bottom), (left, right) = sides
    box = jnp.where(cut[:, None], jnp.stack([top, left, bottom, right], axis=1), 0)
    area = ((bottom - top) * (right - left)).astype(jnp.float32)
    return Mix(jnp.where(cut, 1 - area / (size[0] * size[1]), lam), cut, box)


def apply_mix(drawn: Mix, images: AnyArray, targets: AnyArray) -> tuple[jax.Array, jax.Array]:
    """Mix every group of consecutive images with itself in reverse order.

    Args:
      drawn: parameters of G groups.
      images: (B, H, W, C) floats; G divides B.
      targets: (B, K).

    Returns:
      (images, targets) of the same shapes and dtypes; the arithmetic is float32.

    Raises:
      ValueError: G does not divide B.
    """
    groups, batch = len(drawn.lam), len(images)
    if batch % groups:
        raise ValueError(f"a batch of {batch} images in {groups} groups, expected a divisor of {batch}")
    outside = ~_inside(drawn.box, images.shape[1:3])
    weight = jnp.where(drawn.cut[:, None, None], outside.astype(jnp.float32), drawn.lam[:, None, None])
    return _blend(images, weight[:, None, :, :, None]), _blend(targets, drawn.lam[:, None, None])


def mix(
    key: jax.Array,
    images: AnyArray,
    targets: AnyArray,
    *,
    mixup: float,
    cutmix: float,
    probability: float = 1.0,
    switch: float = 0.5,
    groups: int = 1,
) -> tuple[AnyArray, AnyArray]:
    """Apply mixup (arXiv 1710.09412) or CutMix, one draw per group; timm's `Mixup` in its mode "batch".

    The groups stand for the devices of the published training, each of which drew for its own images. If
    their number is a multiple of the number of devices, no image crosses from one device to another.

    Args:
      key: JAX random key.
      images: (B, H, W, C) floats.
      targets: (B, K), rows of sum 1.
      mixup, cutmix, probability, switch: see `draw_mix`; with both alphas 0, nothing changes.
      groups: number of groups of consecutive images.

    Returns:
      (images, targets) of the same shapes and dtypes.

    Raises:
      ValueError: `groups` does not divide B.
    """
    if not (mixup or cutmix):
        return images, targets
    size = (images.shape[1], images.shape[2])
    drawn = draw_mix(key, groups, size, mixup=mixup, cutmix=cutmix, probability=probability, switch=switch)
    return apply_mix(drawn, images, targets)


def _blend(x, weight):
    """x: (B, ...); weight: (G, 1, ...), broadcast over the members of a group."""
    own = x.astype(jnp.float32).reshape(len(weight), -1, *x.shape[1:])
    return (weight * own + (1 - weight) * own[:, ::-1]).reshape(x.shape).astype(x.dtype)


def _span(key, length, side):
    """(G,) sides in pixels -> (start, stop) of an interval around a uniform pixel, int32, clipped."""
    half = side.astype(jnp.int32) // 2
    centre = jax.random.randint(key, half.shape, 0, length)
    return jnp.maximum(centre - half, 0), jnp.minimum(centre + half, length)


def _inside(box, size):
    """(N, 4) (top, left, bottom, right) -> (N, H, W) bool."""
    top, left, bottom, right = (edge[:, None] for edge in box.T)
    row, column = (jnp.arange(length)[None] for length in size)
    return ((row >= top) & (row < bottom))[:, :, None] & ((column >= left) & (column < right))[:, None, :]


def _erased_boxes(key, batch, size, probability):
    """-> (B, 4) int32 (top, left, bottom, right), all 0 where nothing is erased."""
    erase_key, area_key, aspect_key, top_key, left_key = jax.random.split(key, 5)
    shape = batch, ATTEMPTS
    low, high = (share * size[0] * size[1] for share in ERASED_AREA)
    area = jax.random.uniform(area_key, shape, minval=low, maxval=high)
    low, high = ERASED_LOG_ASPECT
    aspect = jnp.exp(jax.random.uniform(aspect_key, shape, minval=low, maxval=high))
    heights, widths = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (heights < size[0]) & (widths < size[1])
    first = jax.nn.one_hot(jnp.argmax(fits, axis=1), ATTEMPTS)  # one-hot: a gather would communicate
    height, width = ((x * first).sum(axis=1).astype(jnp.int32) for x in (heights, widths))
    erased = fits.any(axis=1) & jax.random.bernoulli(erase_key, probability, (batch,))
    # Where none fits, the ranges below may be empty; `erased` is False there.
    top = jax.random.randint(top_key, (batch,), 0, size[0] - height + 1)
    left = jax.random.randint(left_key, (batch,), 0, size[1] - width + 1)
    return jnp.where(erased[:, None], jnp.stack([top, left, top + height, left + width], axis=1), 0)
