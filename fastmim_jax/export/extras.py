"""Packages of the extras `torch` and `onnx`, and keras_hub, imported on demand."""

import importlib
import os
from functools import cache
from types import ModuleType

from fastmim_jax.errors import UserError

# Operators that torchvision uses at import and that only its compiled part declares.
DECLARED = ("nms", "qnms")


def import_torch() -> ModuleType:
    """Import torch.

    Raises:
      UserError: it is not installed.
    """
    return require("torch", "torch")


@cache
def import_timm() -> ModuleType:
    """Import timm.

    Raises:
      UserError: it is not installed.
    """
    _import_torchvision()
    return require("timm", "torch")


@cache
def import_transformers() -> ModuleType:
    """Import transformers.

    Raises:
      UserError: it is not installed.
    """
    _import_torchvision()
    return require("transformers", "torch")


@cache
def import_torchvision() -> ModuleType:
    """Import torchvision.

    Raises:
      UserError: it is not installed.
    """
    return _import_torchvision() or require("torchvision", "torch")


@cache
def _import_torchvision():
    """Import torchvision even if its compiled part does not load with this PyTorch; None if not installed.

    Nothing here calls its operators, but timm and transformers import it.
    """
    torch = import_torch()
    try:
        return importlib.import_module("torchvision")
    except ImportError:
        return None
    except RuntimeError:
        _declare_operators(torch)
        return importlib.import_module("torchvision")


@cache
def _declare_operators(torch):
    """Declare the operators through `torch.library`; cached, as they vanish with the returned library."""
    library = torch.library.Library("torchvision", "DEF")
    for name in DECLARED:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


@cache
def import_keras_hub() -> ModuleType:
    """Import keras_hub with Keras on JAX, and return keras.

    Raises:
      UserError: it is not installed, or Keras runs on another backend already.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        importlib.import_module("keras_hub")
    except ImportError as error:
        raise UserError(
            "this needs keras_hub, which is not installed: type pip install keras-hub (it brings "
            "TensorFlow along, and does not use it here)"
        ) from error
    keras = importlib.import_module("keras")
    if keras.backend.backend() != "jax":
        raise UserError(
            f"Keras runs on {keras.backend.backend()}, expected JAX: type KERAS_BACKEND=jax in front"
        )
    return keras


def require(name: str, extra: str) -> ModuleType:
    """Import a package of an extra of fastmim_jax.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"this needs {name}, which is not installed: type pip install 'fastmim_jax[{extra}]'"
        ) from error
