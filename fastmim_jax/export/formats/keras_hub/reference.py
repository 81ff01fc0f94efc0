"""keras_hub's own models on JAX, to verify conversions with."""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.export.extras import import_keras_hub
from fastmim_jax.export.formats.rules import State


def build_reference(description: Mapping[str, Any], state: State | None = None) -> Any:
    """Return a Keras model from images to the outputs of all layers of a backbone.

    Args:
      description: result of `describe`.
      state: {path of a variable: array}, complete, or None for random weights.

    Raises:
      UserError: keras_hub is not installed, or the state's names or shapes are not the model's.
    """
    keras = import_keras_hub()
    detector = importlib.import_module("fastmim_jax.export.formats.keras_hub.detector")
    backbone = detector.build_backbone(description)
    if state is not None:
        try:
            detector.assign(backbone, state)
        except ValueError as error:
            raise UserError(
                f"this is not a state of keras_hub's {description['class']}: {error}"
            ) from error
    return keras.Model(backbone.input, detector.layer_outputs(backbone, description))


def reference_outputs(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs of the layers of a model.

    Args:
      model: result of `build_reference`.
      images: (B, H, W, C) float32, normalised.

    Returns:
      {"block 1" or "stage 1", ...: (B, h, w, D); "cls": (B, D) of a ViT with a class token}. The last grid
      is normalised.
    """
    return {name: np.asarray(x) for name, x in model(images, training=False).items()}
