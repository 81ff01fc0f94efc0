"""transformers' own models, to verify conversions with."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.export.extras import import_torch, import_transformers
from fastmim_jax.export.formats.rules import State
from fastmim_jax.export.formats.torch_models import check_no_differences, to_pixels

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

Layers = dict[str, "Tensor"]


def build_reference(description: Mapping[str, Any], state: State | None = None) -> "Module":
    """Return transformers' model of a config.json, in eval mode.

    Args:
      description: result of `describe`.
      state: {name: array} as in a file, or None for random weights.

    Raises:
      UserError: torch or transformers is not installed, or the state's names or shapes are not the model's.
    """
    torch, transformers = import_torch(), import_transformers()
    name = (description.get("architectures") or ["no architecture"])[0]
    kind = getattr(transformers, name, None)
    if kind is None:
        raise UserError(f"config.json has architecture {name}, which transformers has no class for")
    config = kind.config_class.from_dict(description)
    # ViTModel's pooler is a layer after cls that only some models were trained with; no output uses it.
    pooled = any(part.startswith("pooler.") for part in state or ())
    options: dict[str, Any] = {"add_pooling_layer": pooled} if name == "ViTModel" else {}
    if state is None:
        return kind(config, **options).eval()
    arrays = {key: torch.from_numpy(np.array(x)) for key, x in state.items()}
    options.update(config=config, state_dict=arrays, output_loading_info=True, ignore_mismatched_sizes=True)
    with _quiet(transformers.utils.logging):
        model, report = kind.from_pretrained(None, **options)
    reshaped = [key for key, *_ in report["mismatched_keys"]]
    check_no_differences(
        f"transformers' {name}", report["missing_keys"], report["unexpected_keys"], reshaped
    )
    return model.eval()


@contextlib.contextmanager
def _quiet(logging: ModuleType) -> Iterator[None]:
    """Turn off transformers' progress bars and load reports."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def reference_outputs(
    model: Any, images: np.ndarray, noise: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the outputs of the layers of a transformers model.

    Args:
      model: result of `build_reference`.
      images: (B, H, W, C) float32, normalised.
      noise: (B, N) float32 that decides the mask of an MAE; None leaves out its decoder.

    Returns:
      {"block 1" or "stage 1", ...: (B, h, w, D), the last after the final norm; "cls": (B, D) of a ViT;
      "logits": (B, classes) of a classifier; "prediction": (B, h, w, P), "mask": (B, h, w), 1 = masked, and
      "loss": () of an MAE with noise}, NumPy arrays.
    """
    torch, pixels = import_torch(), to_pixels(images)
    with torch.no_grad():
        outputs = _OUTPUTS[model.config.model_type](model, pixels)
        if noise is not None:
            outputs |= _reconstruction(model, pixels, torch.from_numpy(np.array(noise)))
    return {name: x.numpy() for name, x in outputs.items()}


def _vit_outputs(model: Any, pixels: "Tensor") -> Layers:
    out = model(pixels, output_hidden_states=True)
    return _blocks(model, out, pixels) | _logits(out)


def _mae_outputs(model: Any, pixels: "Tensor") -> Layers:
    """Return the encoder's outputs for all patches: mask ratio 0, ascending noise to keep their order."""
    torch, base = import_torch(), model.base_model
    config = base.embeddings.config
    patches = base.embeddings.position_embeddings.shape[1] - 1
    ratio, config.mask_ratio = config.mask_ratio, 0.0  # forward() has no argument for it
    try:
        noise = torch.linspace(0, 1, patches).expand(len(pixels), -1)
        return _blocks(model, base(pixels, noise=noise, output_hidden_states=True), pixels)
    finally:
        config.mask_ratio = ratio


def _swin_outputs(model: Any, pixels: "Tensor") -> Layers:
    out = model(pixels, output_hidden_states=True, output_hidden_states_before_downsampling=True)
    return _stages(model, out.reshaped_hidden_states, model.base_model.layernorm) | _logits(out)


def _grid_outputs(model: Any, pixels: "Tensor") -> Layers:
    """The norm of a bare ConvNeXt, which follows the mean there, is applied to the grid."""
    out = model(pixels, output_hidden_states=True)
    return _stages(model, out.hidden_states, getattr(model, "layernorm", None)) | _logits(out)


def _stages(model: Any, states: Sequence["Tensor"], norm: "Module | None" = None) -> Layers:
    grids = [grid.permute(0, 2, 3, 1) for grid in states[-len(model.config.depths) :]]
    if norm is not None:
        grids[-1] = norm(grids[-1])
    return {f"stage {number}": grid for number, grid in enumerate(grids, 1)}


def _blocks(model: Any, out: Any, pixels: "Tensor") -> Layers:
    states = list(out.hidden_states[-model.config.num_hidden_layers :])
    states[-1] = model.base_model.layernorm(states[-1])
    count = getattr(model.config, "n_cls_tokens", 1)
    blocks = {f"block {number}": _grid(x[:, count:], model, pixels) for number, x in enumerate(states, 1)}
    return blocks | {"cls": states[-1][:, :count].mean(1)}


def _grid(x: "Tensor", model: Any, pixels: "Tensor") -> "Tensor":
    """(B, h * w, ...) -> (B, h, w, ...)."""
    return x.reshape(len(x), pixels.shape[2] // model.config.patch_size, -1, *x.shape[2:])


def _logits(out: Any) -> Layers:
    return {"logits": out.logits} if "logits" in out else {}


def _reconstruction(model: Any, pixels: "Tensor", noise: "Tensor") -> Layers:
    out = model(pixels, noise=noise)
    grids = {"prediction": out.logits, "mask": out.mask}
    return {**{name: _grid(x, model, pixels) for name, x in grids.items()}, "loss": out.loss}


_OUTPUTS: dict[str, Callable[[Any, "Tensor"], Layers]] = {
    "vit": _vit_outputs,
    "vit_mae": _mae_outputs,
    "pixio": _vit_outputs,
    "swin": _swin_outputs,
    "pvt_v2": _grid_outputs,
    "convnext": _grid_outputs,
}
