"""Tiny classifiers with nonzero parameters, and their logits, for tests of exported functions."""

import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.config import finetune_config
from fastmim_jax.export.bundle import ModelBundle
from helpers import initial, small

SIDE = 64  # of the images
CLASSES = ("ant", "bee", "cat")
MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)
FAMILIES = {
    "vit": dict(name="vit_ti8", width=32, depth=2, heads=2, positions="learned"),
    "mixmim": {**small.HIERARCHICAL, "name": "mixmim_b", "width": 16},
    **small.TINY,
}


def classifier(family):
    """ModelBundle of three classes in float32, with initial values plus positive noise."""
    config = finetune_config()
    config.model.backbone.update(FAMILIES[family])
    config.model.dtype = "float32"
    config.data.update(image_size=(SIDE, SIDE), mean=MEAN, std=STD)
    model, random = ModelBundle(config, {}, CLASSES, "a tiny model"), np.random.default_rng(0)
    images = jnp.zeros((1, *model.image_shape))
    begun = initial.variables(model.network(), jax.random.key(0), images)

    def perturbed(x):
        return np.asarray(x) + np.abs(random.normal(0, 0.05, x.shape)).astype(np.float32)

    return model._replace(variables=jax.tree.map(perturbed, begun))


def images(count, seed=0):
    """(B, SIDE, SIDE, 3) uint8, noise."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def logits(model, pixels):
    """Logits (B, 3) for uint8 images, normalised by NumPy: independent of the exported function."""
    normal = (pixels / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    return np.asarray(jax.jit(model.network().apply)(model.variables, normal))
