"""The augmentation of fine-tuning: of crops on the host, and of whole batches on the devices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from fastmim_jax.data.mixing import mix, random_erasing, soft_targets
from fastmim_jax.data.randaugment import RandAugment


def host_augmentation(augment: Any) -> dict[str, Any]:
    """Return the options of `make_loader` for RandAugment and views of an image, of `config.augment`."""
    randaugment = RandAugment(augment.magnitude, augment.magnitude_std) if augment.magnitude else None
    return dict(augment=randaugment, views_per_image=augment.repeated_augmentation)


def device_augmentation(augment: Any, normalize: Callable, classes: int, groups: int) -> Callable:
    """Return a function (key, batch) -> augmented images (B, H, W, C) float32, soft targets (B, K).

    Args:
      augment: `config.augment`.
      normalize: (image, flip) -> normalised images.
      classes: K.
      groups: parts of a batch that mix among themselves; must divide it.
    """
    mixing = dict(
        mixup=augment.mixup,
        cutmix=augment.cutmix,
        probability=augment.mix_probability,
        switch=augment.mix_switch,
        groups=groups,
    )
    return partial(
        _augment,
        normalize=normalize,
        classes=classes,
        erased=augment.random_erasing,
        smoothing=augment.label_smoothing,
        mixing=mixing,
    )


def _augment(key, batch, *, normalize, classes, erased, smoothing, mixing):
    """Normalise, erase, mix: the published order."""
    images = normalize(batch["image"], batch["flip"])
    images = random_erasing(jax.random.fold_in(key, 2), images, erased)
    targets = soft_targets(batch["label"], classes, smoothing)
    return mix(jax.random.fold_in(key, 3), images, targets, **mixing)
