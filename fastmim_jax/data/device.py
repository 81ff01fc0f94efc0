"""What the accelerator does to a uint8 batch before the model sees it."""

import jax
import jax.numpy as jnp


def channel_statistics(channels):
    """-> (mean, std), one number per channel for pixels in [0, 1]: ImageNet's for 3 and 1."""
    if channels == 3:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if channels == 1:
        return (0.449,), (0.226,)
    return (0.5,) * channels, (0.25,) * channels


@jax.jit
def normalize(images, flip, mean, std):
    """Flip where asked, scale, normalise.

    Args:
      images: (B, H, W, C) uint8.
      flip: (B,) bool, True mirrors left and right.
      mean, std: (C,) for pixels in [0, 1].

    Returns:
      (B, H, W, C) float32: (pixel / 255 - mean) / std.
    """
    images = jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    return (images.astype(jnp.float32) / 255 - mean) / std
