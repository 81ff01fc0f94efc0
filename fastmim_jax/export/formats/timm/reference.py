"""timm's own models, to verify conversions with."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmim_jax.export.extras import import_timm, import_torch
from fastmim_jax.export.formats.rules import State
from fastmim_jax.export.formats.timm.describe import model_arguments
from fastmim_jax.export.formats.torch_models import load_state, to_pixels

if TYPE_CHECKING:
    import torch


def build_reference(description: Mapping[str, Any], state: State | None = None) -> "torch.nn.Module":
    """Return the timm model of a description, in eval mode.

    Args:
      description: result of `describe`.
      state: {name: array} of the complete state dict, or None for random weights.

    Raises:
      UserError: timm is not installed, or the state's names or shapes are not the model's.
    """
    model = import_timm().create_model(description["architecture"], **model_arguments(description)).eval()
    if state is not None:
        load_state(model, state, f"timm's {description['architecture']}")
    return model


def reference_outputs(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs of the layers of a timm model.

    Args:
      model: result of `build_reference`.
      images: (B, H, W, C) float32, normalised.

    Returns:
      {"block 1" ... of a ViT or "stage 1" ... of a pyramid: (B, h, w, D), the last after the model's last
      norm if that precedes the pooling; "cls": (B, D) of a ViT; "logits": (B, classes) with a head}.
    """
    with import_torch().inference_mode():
        last, grids = model.forward_intermediates(to_pixels(images))
        logits = {"logits": model.forward_head(last).numpy()} if model.num_classes else {}
    grids = [np.moveaxis(grid.numpy(), 1, -1) for grid in grids]
    last = last.numpy()
    if last.ndim == 3:  # (B, 1 + N, D) of a ViT, or (B, N, D)
        count = last.shape[1] - grids[-1].shape[1] * grids[-1].shape[2]  # 0 without a class token
        kind, prefix = "block", {"cls": last[:, 0]} if count else {}
        grids[-1] = last[:, count:].reshape(grids[-1].shape)
    else:
        channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        kind, prefix, grids[-1] = "stage", {}, last if channels_last else np.moveaxis(last, 1, -1)
    return {f"{kind} {number}": grid for number, grid in enumerate(grids, 1)} | prefix | logits
