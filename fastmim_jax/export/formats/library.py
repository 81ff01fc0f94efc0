"""The interface of a library to the rest of the export code: what its folder provides."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from fastmim_jax.export.formats.rules import Format, State


class MAESpec(NamedTuple):
    """Settings of an MAE beside its encoder, as in `config.method`.

    decoder: keyword arguments of `models.decoder.Decoder`.
    """

    decoder: Mapping[str, Any]
    mask_ratio: float = 0.75
    normalize_target: bool = True


class ModelSpec(NamedTuple):
    """A model without its arrays, for a library's description of it.

    encoder: the backbone, a Flax module.
    image_size: (height, width) in pixels.
    pooling: of a classifier, a key of `heads.POOLINGS`; None for a bare backbone, or with classes for the
      backbone's own.
    classes: their names; () for no head.
    mean, std: of pixels in [0, 1], one number per channel; () for `data.device.channel_statistics`.
    mae: None for a classifier or a backbone.
    rescaling: (factor, offset): value * factor - offset is a pixel in [0, 1].
    """

    encoder: nn.Module
    image_size: tuple[int, int]
    channels: int = 3
    pooling: str | None = None
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    mae: MAESpec | None = None
    rescaling: tuple[float, float] = (1 / 255, 0.0)

    @property
    def head_pooling(self) -> str | None:
        """The pooling, with classes the backbone's own by default."""
        return self.pooling or (self.encoder.pooling if self.classes else None)


class Reference(NamedTuple):
    """The library's own model, to verify conversions with.

    build: (description, state dict or None for random weights) -> the model in eval mode. Raises UserError
      if a package is missing, or if names or shapes of the state are not the model's.
    outputs: (model, images (B, H, W, C) float32, normalised) -> {"block 1" or "stage 1", ...: (B, h, w, D),
      "cls": (B, D) of a ViT, "logits": (B, classes) with a head}. A library with formats of an MAE also
      takes the keyword noise (B, N), and adds "prediction", "mask" and "loss".
    backend: what computes its outputs.
    """

    build: Callable[[dict, State | None], Any]
    outputs: Callable[..., dict[str, np.ndarray]]
    backend: str = "PyTorch"


class Detector(NamedTuple):
    """Files of a folder that build a detector on the backbone's feature pyramid and train it.

    weights: name of the file with the arrays; its suffix tells the kind.
    files: ModelSpec -> {name: text}. Raises UserError if the library has no such detector.
    card: ModelSpec -> section of the model card on the published recipe.
    """

    weights: str
    files: Callable[[ModelSpec], dict[str, str]]
    card: Callable[[ModelSpec], str]


def _no_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {}


class Folder(NamedTuple):
    """A folder that the library opens by itself: model.safetensors and config.json, or a detector's files.

    package: name of the Python package.
    code: (description, path) -> Python lines that open a folder.
    keys: a config.json with one of these keys is the library's.
    read_settings: config.json -> `settings` of `export.from_torch.from_torch`.
    files: ModelSpec -> {name: content of a further JSON file}.
    """

    package: str
    code: Callable[[dict, Path], str]
    keys: tuple[str, ...] = ()
    read_settings: Callable[[Mapping[str, Any]], dict] = _no_settings
    files: Callable[[ModelSpec], dict[str, dict]] = lambda spec: {}
    detector: Detector | None = None


class Library(NamedTuple):
    """A library, or the published repositories together, whose files are read and written.

    name: the value of --to.
    formats: of its files.
    describe: ModelSpec -> the library's description of the model, JSON. Raises UserError if the library has
      no such model.
    file_hints: (ModelSpec, path of a file) -> lines on how to open the file.
    wrapper: entry of a .pth file with the arrays.
    """

    name: str
    formats: tuple[Format, ...]
    describe: Callable[[ModelSpec], dict] | None = None
    file_hints: Callable[[ModelSpec, Path], list[str]] = lambda spec, path: []
    reference: Reference | None = None
    folder: Folder | None = None
    wrapper: str = "model"
