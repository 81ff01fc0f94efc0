"""torchvision's own models, to verify conversions with."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastmim_jax.export.extras import import_torch, import_torchvision
from fastmim_jax.export.formats.rules import State
from fastmim_jax.export.formats.torch_models import load_state, to_pixels
from fastmim_jax.models.pyramid import STAGES

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

Tensors = list["torch.Tensor"]


def build_reference(description: Mapping[str, Any], state: State | None = None) -> "Module":
    """Return torchvision's model of a description, in eval mode; without a head if there are no classes.

    Args:
      description: result of `describe`.
      state: {name: array} of the complete state dict with buffers, or None for random weights.

    Raises:
      UserError: the state's names or shapes are not the model's; torch or torchvision is not installed.
    """
    import_torch(), import_torchvision()
    model = _detector().build_backbone(description)
    if state is not None:
        load_state(model, state, f"torchvision's {description['architecture']}")
    return model


def _detector() -> ModuleType:
    """Return the module that exported folders have as detector.py, which imports torchvision itself."""
    return importlib.import_module("fastmim_jax.export.formats.torchvision.detector")


def models_module() -> ModuleType:
    """Return the module torchvision.models."""
    import_torchvision()
    return importlib.import_module("torchvision.models")


def reference_outputs(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs of the layers of a torchvision model.

    Args:
      model: result of `build_reference`.
      images: (B, H, W, 3) float32, normalised.

    Returns:
      {"block 1" or "stage 1", ...: (B, h, w, D); "cls": (B, D) of a ViT; "logits": (B, classes) with a
      head}. The last grid is normed, except in a ConvNeXt with a head, whose norm follows the mean.
    """
    layers = _LAYERS[type(model).__name__]
    outputs: Tensors = []
    hooks = [
        module.register_forward_hook(lambda *call: outputs.append(call[-1]))
        for module in layers.modules(model)
    ]
    try:
        with import_torch().inference_mode():
            logits = model(to_pixels(images))
            arranged = layers.arrange(model, outputs)
    finally:
        for hook in hooks:
            hook.remove()
    if _has_head(model):
        arranged["logits"] = logits
    return {name: x.numpy() for name, x in arranged.items()}


def _has_head(model: Any) -> bool:
    return not isinstance(
        model.get_submodule(_detector().HEADS[type(model).__name__]), import_torch().nn.Identity
    )


def _vit_blocks(model: Any) -> Sequence["Module"]:
    *inner, _ = model.encoder.layers
    return (*inner, model.encoder.ln)


def _vit_outputs(model: Any, outputs: Tensors) -> dict[str, "torch.Tensor"]:
    """[(B, 1 + h * w, D)] -> {"block 1": (B, h, w, D), ..., "cls": (B, D)}."""
    side = model.image_size // model.patch_size
    grids = {f"block {number}": x[:, 1:].unflatten(1, (side, side)) for number, x in enumerate(outputs, 1)}
    return {**grids, "cls": outputs[-1][:, 0]}


def _swin_stages(model: Any) -> Sequence["Module"]:
    return (*(model.features[2 * stage + 1] for stage in range(STAGES - 1)), model.norm)


def _stage_outputs(model: Any, outputs: Tensors) -> dict[str, "torch.Tensor"]:
    return {f"stage {number}": x for number, x in enumerate(outputs, 1)}


def _convnext_stages(model: Any) -> Sequence["Module"]:
    return [model.features[2 * stage + 1] for stage in range(STAGES)]


def _convnext_outputs(model: Any, outputs: Tensors) -> dict[str, "torch.Tensor"]:
    """[(B, D, h, w)] -> {"stage 1": (B, h, w, D), ...}, the last normed if there is no head."""
    *inner, last = outputs
    last = last if _has_head(model) else model.classifier[0](last)
    return _stage_outputs(model, [x.permute(0, 2, 3, 1) for x in (*inner, last)])


class _Layers(NamedTuple):
    """Layers of a model class.

    modules: model -> modules whose outputs are taken. arrange: (model, those outputs) -> {layer: output}.
    """

    modules: Callable[[Any], Sequence["Module"]]
    arrange: Callable[[Any, Tensors], dict[str, "torch.Tensor"]]


_LAYERS = {
    "VisionTransformer": _Layers(_vit_blocks, _vit_outputs),
    "SwinTransformer": _Layers(_swin_stages, _stage_outputs),
    "ConvNeXt": _Layers(_convnext_stages, _convnext_outputs),
}
