"""Images and masks of the same name in two folders."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from fastmim_jax.data.sources.listing import list_images, no_images
from fastmim_jax.data.sources.skipped import describe_skipped
from fastmim_jax.errors import UserError


class Pairs(NamedTuple):
    """Paths of n images and of their masks, in order, and sentences on files that are left out."""

    images: tuple[str, ...]
    masks: tuple[str, ...]
    notices: tuple[str, ...] = ()


def pair_folders(
    images: str, masks: str, *, image_end: str = "", mask_end: str = "", noun: str = "mask"
) -> Pairs:
    """Pair the images below two folders by their paths without extension.

    Where no path is the same, an ending that the masks have in common, such as "_mask", is left away.

    Args:
      images, masks: the folders.
      image_end, mask_end: endings of the names before the extension, left away; other files do not count.
      noun: of the second files in messages.

    Raises:
      UserError: a folder without images, two files with one name, or no pair.
    """
    image_of, notices = _stems(images, image_end)
    mask_of, more = _stems(masks, mask_end)
    notices += more
    if not mask_end and not image_of.keys() & mask_of.keys():
        ending = _common_ending(image_of, mask_of)
        if ending:
            mask_of = {
                stem.removesuffix(ending): path for stem, path in mask_of.items() if stem.endswith(ending)
            }
            notices.append(f"{masks}: {noun}s are named as their images with {ending!r} after it")
    common = sorted(image_of.keys() & mask_of.keys())
    if not common:
        first, second = min(image_of), min(mask_of)
        raise UserError(
            f"no {noun} in {masks} has the name of an image in {images} (such as {second} and {first}); "
            f"expected {first}{image_end}.jpg and {first}{mask_end}.png: rename them"
        )
    notices += _describe_missing(image_of, mask_of, images, masks, noun)
    return Pairs(
        tuple(os.path.join(images, image_of[stem]) for stem in common),
        tuple(os.path.join(masks, mask_of[stem]) for stem in common),
        tuple(notices),
    )


def pair_names(images: str, masks: str, names: Sequence[str], listed_in: str) -> Pairs:
    """Pair the images and masks of a list of names without extension, see `pair_folders`.

    Raises:
      UserError: a folder without images, two files with one name, or no pair of the list.
    """
    image_of, mask_of = _stems(images, "")[0], _stems(masks, "")[0]
    complete = [name for name in names if name in image_of and name in mask_of]
    missing = [name for name in names if name not in image_of or name not in mask_of]
    if not complete:
        raise UserError(
            f"{listed_in} names {len(names):,} images, none of them with a file in {images} and a mask in "
            f"{masks}; expected such as {(*names, 'NAME')[0]}.jpg and .png: unpack the download again"
        )
    notices: tuple[str, ...] = ()
    if missing:
        notices = (
            f"{listed_in}: {len(missing):,} of {len(names):,} images are left out, without file or mask, "
            f"such as {missing[0]}: unpack the download again",
        )
    return Pairs(
        tuple(os.path.join(images, image_of[name]) for name in complete),
        tuple(os.path.join(masks, mask_of[name]) for name in complete),
        notices,
    )


def _stems(folder: str, ending: str) -> tuple[dict[str, str], list[str]]:
    """-> {path below a folder without ending and extension: path below it}, and notices."""
    if not os.path.isdir(folder):
        raise UserError(f"The folder {folder} does not exist; expected images in it.")
    listing = list_images(folder)
    found: dict[str, str] = {}
    double: list[str] = []
    for path in (os.fsdecode(listing.paths[index]) for index in range(len(listing.paths))):
        stem, _ = os.path.splitext(path)
        if stem.endswith(ending):
            stem = stem.removesuffix(ending)
            double += [f"{found[stem]} and {path}"] if stem in found else []
            found[stem] = path
    if double:
        raise UserError(
            f"{folder}: {len(double):,} names with two files, such as {double[0]}; expected one of each: "
            "move the others away"
        )
    if not found:
        raise UserError(no_images(folder, listing))
    return found, describe_skipped(folder, listing.skipped)


def _common_ending(image_of: dict[str, str], mask_of: dict[str, str]) -> str:
    """-> the ending such as "_mask" by which most masks differ from the names of images, or ""."""
    endings: Counter[str] = Counter()
    for stem in mask_of:
        for position in range(len(stem) - 1, 0, -1):
            if stem[position] in "_-." and stem[:position] in image_of:
                endings[stem[position:]] += 1
                break
    return endings.most_common(1)[0][0] if endings else ""


def _describe_missing(
    image_of: dict[str, str], mask_of: dict[str, str], images: str, masks: str, noun: str
) -> list[str]:
    alone, sentences = sorted(image_of.keys() - mask_of.keys()), []
    if alone:
        sentences.append(
            f"{images}: {_count(alone, image_of, 'image')} without a {noun} left out, such as "
            f"{image_of[alone[0]]}: put {alone[0]}.png into {masks}, or move the image away"
        )
    alone = sorted(mask_of.keys() - image_of.keys())
    if alone:
        sentences.append(
            f"{masks}: {_count(alone, mask_of, noun)} without an image left out, such as "
            f"{mask_of[alone[0]]}: put {alone[0]}.jpg into {images}, or move the {noun} away"
        )
    return sentences


def _count(alone: Sequence[str], all_of: dict[str, str], noun: str) -> str:
    return f"{len(alone):,} of {len(all_of):,} {noun}{'s' * (len(all_of) != 1)}"
