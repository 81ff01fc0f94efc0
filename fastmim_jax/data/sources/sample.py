"""The bundled sample: squares cut from the twelve photos that ship with scikit-image."""

import functools
import importlib.util
import os

import numpy as np
from PIL import Image

from fastmim_jax.errors import UserError

PHOTOS = (
    "astronaut.png brick.png camera.png chelsea.png coffee.png grass.png gravel.png "
    "hubble_deep_field.jpg ihc.png motorcycle_left.png retina.jpg rocket.jpg"
).split()
COUNTS = {"train": 4096, "test": 512}
SIZE = 160  # side of a record, pixels
SQUARES = 96, 256  # smallest and largest side of a square that is cut out, pixels
TRAIN_SHARE = 0.7  # of a photo's width, from the left; the rest is for the test split


def matches(path: str) -> bool:
    """Return whether `path` is the word 'sample'."""
    return path == "sample"


def split_names(path: str) -> tuple[str, ...]:
    """Return the names of the splits."""
    del path
    return tuple(COUNTS)


def open_split(path: str, split: str) -> "SampleSource":
    """Open a split of the sample; see `SampleSource` for errors."""
    del path
    return SampleSource(split)


class SampleSource:
    """4,096 train or 512 test records, (160, 160, 3) uint8; the label is the photo's number.

    Train squares come from the left 70 % of each photo and test squares from the right 30 %, so
    the two share no pixel. Record i is the same on every machine.
    """

    notices = ()
    classes = tuple(name.partition(".")[0] for name in PHOTOS)

    def __init__(self, split: str = "train"):
        """Raises UserError: unknown split, or scikit-image or its photos are missing."""
        if split not in COUNTS:
            raise UserError(f"The sample has no split {split!r}; expected one of {', '.join(COUNTS)}.")
        self.split = split
        self._folder = _photo_folder()

    def __len__(self) -> int:
        return COUNTS[self.split]

    def __getitem__(self, index: int) -> np.ndarray:
        photo = _photo(os.path.join(self._folder, PHOTOS[self.label(index)]))
        left, top, side = self.square(index)
        square = Image.fromarray(photo[top : top + side, left : left + side])
        return np.array(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC))

    def square(self, index: int) -> tuple[int, int, int]:
        """Return (left, top, side) of record `index` in its photo, pixels."""
        height, width = _photo(os.path.join(self._folder, PHOTOS[self.label(index)])).shape[:2]
        border = int(width * TRAIN_SHARE)
        start, stop = (0, border) if self.split == "train" else (border, width)
        rng = np.random.default_rng([list(COUNTS).index(self.split), self._position(index)])
        side = int(rng.integers(SQUARES[0], min(SQUARES[1], stop - start, height), endpoint=True))
        left = int(rng.integers(start, stop - side, endpoint=True))
        return left, int(rng.integers(0, height - side, endpoint=True)), side

    def name(self, index: int) -> str:
        return f"{self.classes[self.label(index)]}[{self.split} {self._position(index)}]"

    def label(self, index: int) -> int:
        return self._position(index) % len(PHOTOS)

    def label_problem(self) -> None:
        return None

    def _position(self, index: int) -> int:
        return range(len(self))[index]  # negative and out-of-range indices as lists treat them

    def __repr__(self) -> str:
        return f"SampleSource({self.split!r}, {len(self):,} images, {len(self.classes)} classes)"


def _photo_folder() -> str:
    spec = importlib.util.find_spec("skimage")  # not imported: that takes a second
    if spec is None or spec.origin is None:
        raise UserError(
            "The sample photos come with scikit-image, which is not installed: `pip install scikit-image`."
        )
    folder = os.path.join(os.path.dirname(spec.origin), "data")
    missing = [name for name in PHOTOS if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        raise UserError(
            f"The installed scikit-image lacks {', '.join(missing)} in {folder}; expected a recent "
            "wheel: `pip install --force-reinstall scikit-image`."
        )
    return folder


@functools.cache
def _photo(path: str) -> np.ndarray:
    """(H, W, 3) uint8, decoded once per process."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
