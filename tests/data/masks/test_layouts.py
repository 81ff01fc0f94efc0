"""Every layout of images with masks, read back."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from fastmim_jax.data.masks import (
    IGNORE,
    MaskError,
    ade20k,
    cityscapes,
    coco,
    folder,
    mask_evaluation_split,
    mask_split_names,
    open_masks,
    voc,
)
from fastmim_jax.data.masks.splits import choose_folder
from fastmim_jax.errors import UserError
from helpers import mask_files
from helpers.mask_files import COLORS, NAMES, save, write_folder


@pytest.fixture
def drawn():
    rng = np.random.default_rng(1)
    return [mask_files.draw(rng, 24, 32 + 8 * index) for index in range(3)]


def agree(masks, expected):
    """Whether the masks of a data set are those expected, and images decode to the same sizes."""
    assert len(masks) == len(expected)
    for index, mask in enumerate(expected):
        item = pickle.loads(pickle.dumps(masks)).read(index)
        assert item.image.dtype == np.uint8 and item.image.shape == (*mask.shape, 3)
        assert item.mask.dtype == np.int32 and item.name == masks.names(index)
        np.testing.assert_array_equal(item.mask, mask)


def with_border(mask):
    mask = mask.astype(np.int32)
    mask[0] = IGNORE
    return mask


def test_flat_folder_with_every_kind_of_label_map(tmp_path):
    for name, convert, options in (
        ("gray", np.uint8, {}),
        ("deep", np.uint16, {}),
        ("palette", np.uint8, {"palette": True}),
        ("two_bits", np.uint8, {"palette": True, "bits": 2}),
        ("tiff", np.uint8, {}),
        ("rgb_gray", np.uint8, {}),
    ):
        drawn = write_folder(tmp_path / name, seed=3)
        for index, (_, mask) in enumerate(drawn):
            values = convert(mask)
            values = np.stack([values] * 3, -1) if name == "rgb_gray" else values
            path = tmp_path / name / "masks" / f"{index:02}.png"
            if name == "tiff":
                path.unlink()
                path = path.with_suffix(".tif")
            save(path, values, **options)
        masks = open_masks(tmp_path / name)
        assert masks.class_names == ("class 0", "class 1", "class 2") and masks.notices == ()
        agree(masks, [mask for _, mask in drawn])


def test_splits_inside_and_around(tmp_path):
    for split, seed in (("train", 0), ("val", 1)):
        write_folder(tmp_path / "inside", 2, f"images/{split}", f"masks/{split}", seed)
        write_folder(tmp_path / "around", 2, f"{split}/images", f"{split}/masks", seed)
    for name in ("inside", "around"):
        assert mask_split_names(tmp_path / name) == ("train", "val")
        assert mask_evaluation_split(tmp_path / name) == "val"
        first, second = (
            open_masks(tmp_path / name, split=split).read(0) for split in ("train", "validation")
        )
        assert (first.mask != second.mask).any()
        with pytest.raises(UserError, match="split 'test' was asked for"):
            open_masks(tmp_path / name, split="test")
    assert mask_split_names(tmp_path / "around" / "train") == () == folder.split_names(str(tmp_path))


def test_colours_with_a_legend(tmp_path):
    drawn = write_folder(tmp_path)
    for index, (_, mask) in enumerate(drawn):
        save(tmp_path / "masks" / f"{index:02}.png", COLORS[mask])
    with pytest.raises(
        UserError, match=r"4 of 4 masks .* with colours, but no legend .* to legend.txt beside images/"
    ):
        open_masks(tmp_path)
    lines = [f"{name} {' '.join(map(str, color))}" for name, color in zip(NAMES, COLORS, strict=True)]
    (tmp_path / "legend.txt").write_text("\n".join(lines))
    masks = open_masks(tmp_path)
    assert masks.class_names == NAMES
    agree(masks, [mask for _, mask in drawn])
    (tmp_path / "legend.txt").write_text("\n".join(["void " + lines[0].partition(" ")[2], *lines[1:]]))
    agree(open_masks(tmp_path), [mask.astype(int) - 1 for _, mask in drawn])
    assert open_masks(tmp_path, classes=2).class_names == NAMES[1:]  # a number fits any names
    message = r"the classes house, tree, expected those of .*, sky, house, tree: give these names"
    with pytest.raises(UserError, match=message):
        open_masks(tmp_path, classes=NAMES)


def test_masks_of_black_and_white(tmp_path):
    drawn = write_folder(tmp_path)
    for index, (_, mask) in enumerate(drawn):
        save(tmp_path / "masks" / f"{index:02}.png", np.uint8(mask > 0) * 255)
    masks = open_masks(tmp_path)
    assert masks.class_names == ("background", "foreground")
    assert "255 class 1" in masks.notices[0]
    agree(masks, [mask > 0 for _, mask in drawn])


def test_values_with_gaps_are_told(tmp_path):
    write_folder(tmp_path, 1)
    save(tmp_path / "masks" / "00.png", np.full((24, 32), 40, np.uint8))
    masks = open_masks(tmp_path)
    assert len(masks.class_names) == 41 and "1 of the values 0 to 40 occur (40)" in masks.notices[0]


def test_ade20k(tmp_path, drawn):
    root = tmp_path / "ADEChallengeData2016"
    mask_files.write_ade20k(root, drawn)
    save(root / "annotations" / "training" / "ADE_0.png", with_border(drawn[0][1]).astype(np.uint8) + 1)
    for path in (tmp_path, root):
        assert mask_split_names(path) == ("train", "val") == ade20k.split_names(str(root))
        masks = open_masks(path)
        assert masks.class_names[:4] == (*NAMES, "0") and len(masks.class_names) == 150
        agree(masks, [with_border(drawn[0][1]), drawn[1][1], drawn[2][1]])
        assert len(open_masks(path, split="val")) == 3
    for path in ("tfds:scene_parse150", tmp_path / "scene_parse150" / "1.0.0"):
        with pytest.raises(UserError, match="100 classes and instances, .* ADEChallengeData2016"):
            open_masks(path)


def test_pascal_voc(tmp_path, drawn):
    mask_files.write_voc(tmp_path, drawn)
    assert mask_split_names(tmp_path) == ("train", "val")
    masks = open_masks(tmp_path, split="val")
    assert masks.class_names == voc.NAMES and len(voc.NAMES) == 21
    agree(masks, [with_border(mask) for _, mask in drawn[1:]])
    assert len(open_masks(tmp_path / "VOCdevkit" / "VOC2012")) == 1


def test_cityscapes(tmp_path, drawn):
    mask_files.write_cityscapes(tmp_path / "ids", drawn)
    masks = open_masks(tmp_path / "ids")
    assert masks.class_names == cityscapes.NAMES and len(cityscapes.LABEL_IDS) == 19
    classes = np.array([0, 2, 8])
    agree(masks, [with_border(classes[mask]) for _, mask in drawn])
    mask_files.write_cityscapes(tmp_path / "train_ids", drawn, train_ids=True)
    agree(open_masks(tmp_path / "train_ids"), [mask for _, mask in drawn])


def test_coco(tmp_path, drawn):
    mask_files.write_panoptic(tmp_path, drawn)
    masks = open_masks(tmp_path, split="val")
    assert masks.class_names == NAMES and coco.split_names(str(tmp_path)) == ("val",)
    agree(masks, [with_border(mask) for _, mask in drawn])
    mask_files.write_stuff(tmp_path, drawn)
    assert coco.split_names(str(tmp_path)) == ("train", "val")
    masks = open_masks(tmp_path)
    assert len(masks.class_names) == 171
    agree(masks, [with_border(np.array([0, 11, 170])[mask]) for _, mask in drawn])


def test_data_sets_with_classes_of_their_own(tmp_path, drawn):
    writers = (mask_files.write_ade20k, mask_files.write_voc, mask_files.write_cityscapes)
    for write in (*writers, mask_files.write_panoptic, mask_files.write_stuff):
        root = tmp_path / write.__name__ / "ADEChallengeData2016"
        write(root, drawn)
        split = "val" if write is mask_files.write_panoptic else "train"
        with pytest.raises(
            UserError, match="has .* classes, expected 7, as the model or the training data"
        ):
            open_masks(root, split=split, classes=7)
        own = open_masks(root, split=split).class_names
        assert open_masks(root, split=split, classes=len(own)).class_names == own
    masks = open_masks(tmp_path / "write_voc" / "ADEChallengeData2016")
    save(Path(masks.mask_paths[0]), drawn[0][0])
    with pytest.raises(
        MaskError, match="where this data set has values or a palette .*download as they are"
    ):
        masks.read(0)


def test_masks_named_after_their_images(tmp_path):
    drawn = write_folder(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    masks = open_masks(tmp_path)
    assert "named as their images with '_mask' after it" in masks.notices[0]
    agree(masks, [mask for _, mask in drawn])


def test_unknown_layouts(tmp_path):
    with pytest.raises(UserError, match="images/ and masks/"):
        open_masks(tmp_path)
    with pytest.raises(UserError, match="did you mean voc"):
        open_masks(tmp_path, kind="vok")
    with pytest.raises(UserError, match="holds train; expected one of them"):
        choose_folder("/data", "val", {"train": "training"})
