"""manifest.json of a prepared data set: its settings and the facts of its splits."""

import dataclasses
import glob
import os
from typing import Any

from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json

FILE = "manifest.json"
UNFINISHED = ".unfinished"  # folder inside a data set whose preparation has not ended
SETTINGS = "settings.json"  # file in it
KIND, VERSION = "fastmim_jax records", 1
_EXPECTED = "the manifest of prepared images: restore it from a copy, or prepare them again elsewhere"


@dataclasses.dataclass(frozen=True)
class Spread:
    """Smallest value, median and largest value, pixels."""

    min: int
    median: float
    max: int


@dataclasses.dataclass(frozen=True)
class Shard:
    """An ArrayRecord file: path relative to the data set with '/', records, size in bytes, SHA-256."""

    file: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """A record of the original data set that is not an image, and so is left out."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class SplitFacts:
    """The records of one split.

    Attributes:
      records: number of them.
      classes: names of the classes, () where the records have no labels.
      records_per_class: {class: records}; unlabelled: records with label -1.
      height, width: of the stored images.
      mean, std: per channel, over all stored pixels before lossy encoding; 0 and 1 are the ends of the
        declared value range.
      lowest, highest: per channel, of the stored values.
      copied: JPEG files that were small enough and are stored as they are.
      shards: in the order of the records.
      unreadable: originals that were left out.
    """

    records: int
    classes: tuple[str, ...]
    records_per_class: dict[str, int]
    unlabelled: int
    height: Spread
    width: Spread
    mean: tuple[float, ...]
    std: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    copied: int
    shards: tuple[Shard, ...]
    unreadable: tuple[Unreadable, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A prepared data set.

    Attributes:
      settings: of the preparation: source, layout, short_side and others.
      layout: "jpeg", "yuv420" or "raw".
      dtype: "uint8", "uint16" or "float32".
      channels: C.
      value_range: (lowest, highest) declared value.
      libraries: versions that decoded, resized and encoded.
      splits: {name: SplitFacts}.
      sha256: of the hashes of all shards.
    """

    settings: dict[str, Any]
    layout: str
    dtype: str
    channels: int
    value_range: tuple[float, float]
    libraries: dict[str, str]
    splits: dict[str, SplitFacts]
    sha256: str

    @property
    def max_height(self) -> int:
        """Largest height of an image of any split, pixels."""
        return max(facts.height.max for facts in self.splits.values())

    @property
    def max_width(self) -> int:
        """Largest width of an image of any split, pixels."""
        return max(facts.width.max for facts in self.splits.values())

    def to_json(self) -> dict[str, Any]:
        """Return the content of manifest.json."""
        return {"kind": KIND, "version": VERSION, **dataclasses.asdict(self)}


def is_prepared(path: str) -> bool:
    """Return whether a directory was written by `fastmim prepare`, finished or not."""
    if os.path.isfile(os.path.join(path, UNFINISHED, SETTINGS)):
        return True
    file = os.path.join(path, FILE)
    if not os.path.isfile(file):
        return False
    try:
        return read_json(file, dict, _EXPECTED).get("kind") == KIND
    except UserError:  # damaged, or not ours
        return bool(glob.glob(os.path.join(glob.escape(path), "*", "*.array_record")))


def load_manifest(path: str) -> Manifest:
    """Read the manifest of a prepared data set.

    Raises:
      UserError: the preparation has not ended, another version of this package wrote the manifest, or it is
        damaged.
    """
    file = os.path.join(path, FILE)
    if not os.path.lexists(file):
        raise UserError(
            f"The preparation of {path} has not ended: rerun the same `fastmim prepare` command to resume."
        )
    content = read_json(file, dict, _EXPECTED)
    if content.get("version", VERSION) != VERSION:
        raise UserError(
            f"{path} has records of version {content.get('version')}, expected {VERSION}: prepare them "
            "again with this version of fastmim_jax, or read them with the one that wrote them."
        )
    try:
        manifest = _manifest(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} cannot be read (it holds other values), expected {_EXPECTED}") from error
    return manifest


def _manifest(content: dict[str, Any]) -> Manifest:
    splits = {name: _facts(facts) for name, facts in content["splits"].items()}
    fields = {field.name: content[field.name] for field in dataclasses.fields(Manifest)}
    low, high = map(float, content["value_range"])
    settings = dict(content["settings"])
    manifest = Manifest(**fields | {"splits": splits, "value_range": (low, high), "settings": settings})
    numbers = [n for x in splits.values() for n in (x.records, x.height.max, x.width.max, *x.mean, *x.std)]
    texts = [manifest.layout, manifest.dtype, *(s.file for x in splits.values() for s in x.shards)]
    if not splits or not all(isinstance(x, (int, float)) for x in (*numbers, manifest.channels)):
        raise ValueError("numbers are missing")
    if not all(isinstance(x, str) for x in texts):
        raise ValueError("names are missing")
    return manifest


def _facts(content: dict[str, Any]) -> SplitFacts:
    lists = {name: tuple(content[name]) for name in ("classes", "mean", "std", "lowest", "highest")}
    return SplitFacts(
        **content
        | lists
        | {"height": Spread(**content["height"]), "width": Spread(**content["width"])}
        | {"shards": tuple(Shard(**shard) for shard in content["shards"])}
        | {"unreadable": tuple(Unreadable(**item) for item in content["unreadable"])}
    )
