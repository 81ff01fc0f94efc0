"""Packages of the extras `torch` and `onnx`, imported only where they are needed."""

import importlib
from functools import cache

from fastmim_jax.errors import UserError

# Operators that torchvision describes at import, and that only its compiled part declares.
DECLARED = ("nms", "qnms")


def import_torch():
    """The module torch.

    Raises:
      UserError: it is not installed.
    """
    return require("torch", "torch")


@cache
def import_timm():
    """The module timm.

    Raises:
      UserError: it is not installed.
    """
    _import_torchvision()
    return require("timm", "torch")


@cache
def import_transformers():
    """The module transformers.

    Raises:
      UserError: it is not installed.
    """
    _import_torchvision()
    return require("transformers", "torch")


@cache
def import_torchvision():
    """The module torchvision.

    Raises:
      UserError: it is not installed.
    """
    return _import_torchvision() or require("torchvision", "torch")


@cache
def _import_torchvision():
    """torchvision, also where its compiled part does not fit a CPU's PyTorch; None where there is none.

    Nothing here calls an operator of it, but timm and transformers import it.
    """
    torch = import_torch()
    try:
        return importlib.import_module("torchvision")
    except ImportError:
        return None
    except RuntimeError:
        _library(torch)
        return importlib.import_module("torchvision")


@cache
def _library(torch):
    """Declares the operators; they are gone when what is returned is."""
    library = torch.library.Library("torchvision", "DEF")
    for name in DECLARED:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def require(name, extra):
    """The module of a package that an extra of ours brings.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"this needs {name}, which is not installed: type pip install 'fastmim_jax[{extra}]'"
        ) from error
