"""Masked-image-modeling pre-training for vision backbones in JAX and Flax.

Importing the package imports no JAX and touches no device; the public names load on first use.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "create_method": "fastmim_jax.build",
    "create_model": "fastmim_jax.models.zoo",
    "hog": "fastmim_jax.mim.hog",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'fastmim_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
