"""Tiny images with masks, written in every layout of `fastmim_jax.data.masks`."""

import json

import numpy as np
from PIL import Image

COLORS = np.array([[20, 20, 220], [220, 30, 30], [40, 200, 40]], np.uint8)  # of classes in drawn images
NAMES = ("sky", "house", "tree")


def draw(rng, height=24, width=32, classes=3):
    """An image of rectangles in COLORS and its mask -> (H, W, 3) uint8, (H, W) uint8."""
    mask = np.zeros((height, width), np.uint8)
    for number in range(1, classes):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        mask[top : top + height // 2, left : left + width // 2] = number
    return COLORS[mask], mask


def save(path, array, palette=False, **options):
    """Write an array as an image file, its folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image = Image.fromarray(array, "P")
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path, **options)
    return path


def write_folder(root, count=4, images="images", masks="masks", seed=0, **options):
    """root/images/00.png ... and masks/ of drawn images -> [(image, mask)]."""
    rng, drawn = np.random.default_rng(seed), []
    for index in range(count):
        image, mask = draw(rng, 24 + 4 * index, 32)
        save(root / images / f"{index:02}.png", image)
        save(root / masks / f"{index:02}.png", mask, **options)
        drawn.append((image, mask))
    return drawn


def write_ade20k(root, drawn, names=NAMES):
    """ADEChallengeData2016 with the drawn images for training and validation; class k is saved as k + 1."""
    for index, (image, mask) in enumerate(drawn):
        for split in ("training", "validation"):
            save(root / "images" / split / f"ADE_{index}.jpg", image, quality=95)
            save(root / "annotations" / split / f"ADE_{index}.png", mask + 1)
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    lines += [f"{k + 1}\t0.1\t1\t1\t1\t{(*names, *map(str, range(150)))[k]}, x" for k in range(150)]
    (root / "objectInfo150.txt").write_text("\n".join(lines) + "\n")


def write_voc(root, drawn):
    """VOCdevkit/VOC2012 with the drawn images, the first in train, the others in val; a border of 255."""
    folder = root / "VOCdevkit" / "VOC2012"
    names = [f"2007_{index}" for index in range(len(drawn))]
    for name, (image, mask) in zip(names, drawn, strict=True):
        mask = mask.copy()
        mask[0] = 255
        save(folder / "JPEGImages" / f"{name}.jpg", image, quality=95)
        save(folder / "SegmentationClass" / f"{name}.png", mask, palette=True)
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text(names[0] + "\n")
    (lists / "val.txt").write_text("\n".join(names[1:]) + "\n")


def write_cityscapes(root, drawn, label_ids=(7, 11, 21), train_ids=False):
    """leftImg8bit/ and gtFine/ with the drawn images in one city; a border of label 0 (unlabeled)."""
    for index, (image, mask) in enumerate(drawn):
        name = f"ulm_{index:06}_000019"
        labels = np.array(label_ids, np.uint8)[mask]
        labels[0] = 0
        save(root / "leftImg8bit" / "train" / "ulm" / f"{name}_leftImg8bit.png", image)
        save(root / "gtFine" / "train" / "ulm" / f"{name}_gtFine_labelIds.png", labels)
        save(root / "gtFine" / "train" / "ulm" / f"{name}_gtFine_color.png", image)
        if train_ids:
            save(root / "gtFine" / "train" / "ulm" / f"{name}_gtFine_labelTrainIds.png", mask)


def write_panoptic(root, drawn):
    """COCO's panoptic PNG and JSON: class k is category 10 * k + 1, its segment 300 + k; a void border."""
    annotations = []
    for index, (image, mask) in enumerate(drawn):
        ids = 300 + mask.astype(int)
        ids[0] = 0
        packed = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
        save(root / "val2017" / f"{index:012}.jpg", image, quality=95)
        save(root / "annotations" / "panoptic_val2017" / f"{index:012}.png", packed)
        segments = [{"id": 300 + int(k), "category_id": 10 * int(k) + 1} for k in np.unique(mask)[::-1]]
        annotations.append({"file_name": f"{index:012}.png", "image_id": index, "segments_info": segments})
    categories = [{"id": 10 * k + 1, "name": name, "isthing": k % 2} for k, name in enumerate(NAMES)]
    content = {"annotations": annotations, "categories": categories}
    (root / "annotations" / "panoptic_val2017.json").write_text(json.dumps(content))


def write_stuff(root, drawn, values=(0, 12, 181)):
    """COCO-Stuff's PNGs; class k of a drawn image is saved as a value; a border of 255."""
    for index, (image, mask) in enumerate(drawn):
        labels = np.array(values, np.uint8)[mask]
        labels[0] = 255
        save(root / "train2017" / f"{index:012}.jpg", image, quality=95)
        save(root / "stuffthingmaps" / "train2017" / f"{index:012}.png", labels)
