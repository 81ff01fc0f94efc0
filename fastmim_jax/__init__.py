"""Masked-image-modeling pre-training for vision backbones in JAX and Flax.

Importing the package imports no JAX and touches no device; the public names load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastmim_jax.api.loaded_model import Model, load
    from fastmim_jax.api.own_loop import make_step
    from fastmim_jax.api.training import finetune, pretrain, probe, segment
    from fastmim_jax.build import create_method
    from fastmim_jax.data.sources import open_source as open_dataset
    from fastmim_jax.errors import UserError
    from fastmim_jax.mim.hog import hog
    from fastmim_jax.models.zoo import create_model, list_models
    from fastmim_jax.recipes import list_configs, load_config

__version__ = "0.1.0"

_PUBLIC = {
    "Model": "fastmim_jax.api.loaded_model",
    "UserError": "fastmim_jax.errors",
    "create_method": "fastmim_jax.build",
    "create_model": "fastmim_jax.models.zoo",
    "finetune": "fastmim_jax.api.training",
    "hog": "fastmim_jax.mim.hog",
    "list_configs": "fastmim_jax.recipes",
    "list_models": "fastmim_jax.models.zoo",
    "load": "fastmim_jax.api.loaded_model",
    "load_config": "fastmim_jax.recipes",
    "make_step": "fastmim_jax.api.own_loop",
    "open_dataset": "fastmim_jax.data.sources:open_source",
    "pretrain": "fastmim_jax.api.training",
    "probe": "fastmim_jax.api.training",
    "segment": "fastmim_jax.api.training",
}
__all__ = [
    "Model",
    "UserError",
    "__version__",
    "create_method",
    "create_model",
    "finetune",
    "hog",
    "list_configs",
    "list_models",
    "load",
    "load_config",
    "make_step",
    "open_dataset",
    "pretrain",
    "probe",
    "segment",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module, _, attribute = _PUBLIC[name].partition(":")
        return getattr(import_module(module), attribute or name)
    raise AttributeError(f"module 'fastmim_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
