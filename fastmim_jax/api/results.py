"""Results of a model: arrays with the names of their images."""

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.mim.output import Output
from fastmim_jax.tools.reconstruct import draw
from fastmim_jax.train.inference import MethodStage


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Features of n images.

    Attributes:
      names: of the images: paths, or "image 0", ... of those in memory.
      labels: (n,) class numbers, -1 where there is none.
      classes: names of the classes.
      arrays: {"LAYER POOLING": float32}, such as "block 12 mean" (n, D), "block 12 patches" (n, h, w, D).
      undecodable: names of further images that could not be decoded.
    """

    names: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    arrays: dict[str, np.ndarray]
    undecodable: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return the array of a "LAYER POOLING"."""
        if name not in self.arrays:
            raise UserError(f"no features '{name}'; choose from: {', '.join(self.arrays)}")
        return self.arrays[name]

    @property
    def pooled(self) -> np.ndarray:
        """(n, D), the mean over the patches, of the last layer asked for."""
        return self._last("mean")

    @property
    def cls(self) -> np.ndarray:
        """(n, D), the class token of the last layer asked for."""
        return self._last("cls")

    @property
    def patches(self) -> np.ndarray:
        """(n, h, w, D), the patch tokens of the last layer asked for."""
        return self._last("patches")

    def _last(self, pooling: str) -> np.ndarray:
        names = [name for name in self.arrays if name.endswith(f" {pooling}")]
        if not names:
            raise UserError(
                f"these features hold {', '.join(self.arrays)}: call features(images, pool='{pooling}') "
                f"or pool=('mean', '{pooling}')"
            )
        return self.arrays[names[-1]]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in self.arrays.items())
        return f"ImageFeatures({len(self):,} images: {shapes})"


@dataclasses.dataclass(frozen=True, eq=False)
class ImagePredictions:
    """Predictions for n images.

    Attributes:
      names, labels, undecodable: see `ImageFeatures`.
      classes: (n, k) names of the likeliest classes, likeliest first, k up to 5.
      probabilities: (n, k) of these classes.
      true: (n,) names of the classes that the images have by their folder or data set, "" without one.
    """

    names: list[str]
    labels: np.ndarray
    true: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    undecodable: list[str]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def best(self) -> list[str]:
        """The likeliest class of each image."""
        return list(self.classes[:, 0])

    @property
    def accuracy(self) -> float:
        """The share of images with a class whose likeliest class it is.

        Raises:
          UserError: no image has a class.
        """
        labelled = self.true != ""
        if not labelled.any():
            raise UserError(
                "no classes to compare the predictions with: predict a folder with one folder per class"
            )
        return float((self.classes[:, 0] == self.true)[labelled].mean())


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstructions:
    """Masked images and the predictions of a pre-training method, of n images.

    Attributes:
      images: (n, H, W, C) in [0, 1].
      encoder_input: (n, H, W, C), the pixels that the encoder is given.
      prediction, target: (n, h, w, P), the values of every token, such as pixels or HOG.
      mask: (n, h, w) bool, True where a token is masked.
      loss: of these images.
    """

    images: np.ndarray
    encoder_input: np.ndarray
    prediction: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    loss: float
    _stage: MethodStage = dataclasses.field(repr=False)
    _drawn: tuple = dataclasses.field(repr=False)

    @classmethod
    def from_output(
        cls, stage: MethodStage, output: Output, normalized: jax.Array, step: int, count: int
    ) -> "Reconstructions":
        """Return the reconstructions of the first `count` images of a pass of the method."""
        out, images = jax.device_get((output, normalized))
        pixels, given = (
            np.asarray(stage.reader.denormalize(x[:count])) for x in (images, out.encoder_input)
        )
        arrays = (out.prediction[:count], out.target[:count], out.mask[:count] > 0, float(out.loss))
        return cls(pixels, given, *arrays, stage, (output, normalized, step, count))

    def __len__(self) -> int:
        return len(self.images)

    def save(self, path: str | os.PathLike) -> Path:
        """Draw originals, masked images and predictions to a PNG file, as `fastmim reconstruct` does."""
        output, normalized, step, count = self._drawn
        return draw(self._stage, output, normalized, step, count, Path(path))
