"""COCO: panoptic segmentations (PNG and JSON), and COCO-Stuff (PNG)."""

import os
import re
from typing import Any

import numpy as np

from fastmim_jax.data.masks.base import BEYOND, IGNORE, MaskedFiles, Request, number_names, own_classes
from fastmim_jax.data.masks.coding import OF_DOWNLOAD, SegmentCoding, ValueCoding
from fastmim_jax.data.masks.pairs import pair_folders, pair_names
from fastmim_jax.data.masks.splits import choose_folder
from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json

YEARS = {"train": "train2017", "val": "val2017"}
# Values of COCO-Stuff (the id of the category less 1) without a category.
UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
STUFF_CLASSES = 182
_STUFF_FOLDERS = ("stuffthingmaps", "annotations")


def matches(path: str) -> bool:
    """Return whether a folder holds COCO panoptic or COCO-Stuff masks."""
    return bool(split_names(path))


def split_names(path: str) -> tuple[str, ...]:
    """Return the names of the splits whose masks are there."""
    return tuple(split for split in YEARS if _panoptic(path, split) or _stuff(path, split))


def open_split(path: str, request: Request) -> MaskedFiles:
    """Open a split: the panoptic masks where they are there, else COCO-Stuff's.

    Raises:
      UserError: no such split, no images, or a JSON file that is not COCO's.
    """
    split = choose_folder(path, request.split, {name: name for name in split_names(path)})
    images = next(filter(os.path.isdir, _image_folders(path, split)), "")
    if not images:
        expected = " or ".join(_image_folders(path, split))
        raise UserError(f"{path} holds masks, but no images; expected them in {expected}")
    panoptic = _panoptic(path, split)
    if panoptic:
        return _open_panoptic(path, images, *panoptic, request.classes)
    return _open_stuff(path, images, _stuff(path, split), request.classes)


def _image_folders(path: str, split: str) -> tuple[str, ...]:
    return os.path.join(path, YEARS[split]), os.path.join(path, "images", YEARS[split])


def _panoptic(path: str, split: str) -> tuple[str, str] | None:
    """-> the JSON file and the folder of PNGs of a split, or None."""
    name = f"panoptic_{YEARS[split]}"
    for folder in (os.path.join(path, "annotations"), path):
        file, masks = os.path.join(folder, f"{name}.json"), os.path.join(folder, name)
        if os.path.isfile(file) and os.path.isdir(masks):
            return file, masks
    return None


def _stuff(path: str, split: str) -> str:
    """-> the folder of the COCO-Stuff masks of a split, or ""."""
    folders = (os.path.join(path, name, YEARS[split]) for name in _STUFF_FOLDERS)
    return next(filter(os.path.isdir, folders), "")


def _open_panoptic(
    path: str, images: str, file: str, masks: str, names: tuple[str, ...] | None
) -> MaskedFiles:
    content = read_json(file, dict, "COCO's panoptic annotations")
    try:
        categories = {item["id"]: number for number, item in enumerate(content["categories"])}
        own_names = tuple(str(item["name"]) for item in content["categories"])
        segments = {item["file_name"]: _segments(item, categories) for item in content["annotations"]}
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{file} is not COCO's panoptic format ({error!r} is missing); expected the file of "
            "panoptic_annotations_trainval2017.zip"
        ) from error
    pairs = pair_names(images, masks, [os.path.splitext(name)[0] for name in segments], file)
    return MaskedFiles(
        path,
        own_classes(path, own_names, names),
        pairs.images,
        pairs.masks,
        SegmentCoding(segments),
        pairs.notices,
    )


def _segments(item: dict[str, Any], categories: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """-> the ascending ids of the segments of a mask, and their classes."""
    ids = np.array([info["id"] for info in item["segments_info"]], np.int32)
    classes = np.array([categories[info["category_id"]] for info in item["segments_info"]], np.int32)
    order = np.argsort(ids)
    return ids[order], classes[order]


def _open_stuff(path: str, images: str, masks: str, names: tuple[str, ...] | None) -> MaskedFiles:
    """Open COCO-Stuff: 171 classes in the order of their values; 255 is no label."""
    ends = ("_labelTrainIds", "")  # the first: as mmsegmentation converts them
    end = next(end for end in ends if not end or any(n.endswith(f"{end}.png") for n in os.listdir(masks)))
    used = [value for value in range(STUFF_CLASSES) if value not in UNUSED]
    table = np.full(256, BEYOND, np.int32)
    table[255] = IGNORE
    table[: len(used) if end else STUFF_CLASSES] = IGNORE
    table[np.arange(len(used)) if end else used] = np.arange(len(used))
    pairs = pair_folders(images, masks, mask_end=end)
    own_names = own_classes(path, _stuff_names(path, used), names)
    coding = ValueCoding(table, OF_DOWNLOAD)
    return MaskedFiles(path, own_names, pairs.images, pairs.masks, coding, pairs.notices)


def _stuff_names(path: str, used: list[int]) -> tuple[str, ...]:
    """-> the names in COCO-Stuff's labels.txt ("1: person"), or numbers where the file is missing."""
    try:
        with open(os.path.join(path, "labels.txt"), encoding="utf-8") as file:
            found = {
                int(number): name.strip()
                for number, name in re.findall(r"^(\d+): (.+)$", file.read(), re.M)
            }
        return tuple(found[value + 1] for value in used)
    except (OSError, KeyError):
        return number_names(len(used))
