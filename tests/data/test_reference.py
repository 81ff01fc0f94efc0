"""Random data sets: what the loaders yield is what a slow reference reader finds in the files."""

import os
import re
from collections import Counter

import numpy as np
import pytest

from fastmim_jax.data.decide_values import decide_values
from fastmim_jax.data.eval_batches import make_eval_batches
from fastmim_jax.data.limits import DecodeRules
from fastmim_jax.data.loader import make_loader
from fastmim_jax.data.sources import open_source
from fastmim_jax.errors import UserError
from helpers.random_sets import make_data_set
from helpers.reference_pixels import Broken, Refused, decide, pixels, resize
from helpers.reference_reader import read_listing

WHITE = {"uint8": 255, "uint16": 65535, "float32": 1}
RESIZED = 2.5 / 255  # of white: 2, as resize.py tells it, and rounding
QUICK, ALL = 25, 500
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
WORKERS = (123, 321)  # data sets that two processes read, too


@pytest.mark.parametrize("first", range(0, QUICK, 5))
def test_data_sets_are_read_as_the_reference_reads_them(first, tmp_path):
    for number in range(first, first + 5):
        compare(make_data_set(number, str(tmp_path / str(number))))


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, ALL, 95))
def test_more_data_sets(first, tmp_path):
    for number in range(first, first + 95):
        compare(make_data_set(number, str(tmp_path / str(number))))


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("number", WORKERS)
def test_processes_read_the_same(number, tmp_path):
    spec = make_data_set(number, str(tmp_path))._replace(workers=2)
    read_listing(spec.path, spec.split)  # it is not one to be refused
    compare(spec)


def compare(spec):
    """Read a data set by the package and by the reference."""
    try:
        listing = read_listing(spec.path, spec.split)
        files = [record.data for record in listing.records]
        values = decide(files, spec.channels, spec.value_range, spec.nodata)
    except Refused as reason:
        with pytest.raises(UserError) as refusal:
            open_and_decide(spec)
        assert len(str(refusal.value).split()) > 5, reason
        return
    source, rules = open_and_decide(spec)
    compare_records(source, listing)
    compare_notices(source, listing)
    assert rules.pixel_dtype == values.dtype
    expected = [expected_pixels(data, spec, values) for data in files]
    if any(expected):
        assert rules.value_range == (() if values.low is None else (values.low, values.high))
    compare_eval_batches(source, spec, rules, listing, expected)
    compare_training_batches(source, spec, rules, listing, expected)


def open_and_decide(spec):
    source = open_source(spec.path, spec.split)
    rules = DecodeRules(spec.max_pixels, spec.value_range, spec.nodata)
    return source, decide_values(source, spec.channels, rules).rules


def expected_pixels(data, spec, values):
    try:
        return pixels(data, spec.channels, values, spec.nodata)
    except Broken:
        return None


def compare_records(source, listing):
    assert [source.name(i) for i in range(len(source))] == [record.name for record in listing.records]
    assert list(source.classes) == listing.classes
    numbers = {name: number for number, name in enumerate(listing.classes)} | {None: -1}
    labels = [numbers[record.label] for record in listing.records]
    assert [source.label(i) for i in range(len(source))] == labels
    assert list(source.all_labels()) == labels
    assert [source[i] for i in range(len(source))] == [record.data for record in listing.records]


def compare_notices(source, listing):
    """The numbers and the kinds of what was left out."""
    others, skipped, missing = Counter(), Counter(), 0
    for notice in source.notices:
        if found := re.search(r": ([\d,]+) other files? ignored \((.*)\)$", notice):
            kinds = re.findall(r"(\d+) (?:\.(\w+)|without extension)", found[2])
            assert sum(int(number) for number, _ in kinds) == int(found[1])
            others.update({kind: int(number) for number, kind in kinds})
        if found := re.search(r": ([\d,]+) (?:entry|entries) skipped \((.*)\)$", notice):
            for reason in ("name that", "FIFO,", "link to itself", "link to a folder", "work directory"):
                for why, number in re.findall(rf"({reason}[^:(]*): (\d+) \(", found[2]):
                    skipped[why] += int(number)
        if found := re.search(r": ([\d,]+) of [\d,]+ paths are no files", notice):
            missing += int(found[1])
    assert (others, skipped, missing) == (listing.others, listing.skipped, listing.missing)
    assert any("images elsewhere are ignored" in x for x in source.notices) == listing.left_out


def compare_eval_batches(source, spec, rules, listing, expected):
    options = dict(image_size=(spec.size, spec.size), channels=spec.channels, rules=rules)
    number = {name: i for i, name in enumerate(listing.classes)} | {None: -1}
    with make_eval_batches(
        source, batch_size=5, resize=spec.size, threads=2, workers=spec.workers, **options
    ) as batches:
        rows = [dict(zip(x, row, strict=True)) for x in batches for row in zip(*x.values(), strict=True)]
    assert len(rows) == -(-len(source) // 5) * 5
    for index, row in enumerate(rows):
        image = expected[index] if index < len(expected) else None
        assert row["index"] == (index if index < len(expected) else -1)
        assert row["valid"] == (image is not None), listing.records[index].name
        assert row["undecodable"] == (image is None and index < len(expected))
        assert row["label"] == (number[listing.records[index].label] if image else -1)
        compare_pixels(row["image"], image, [center_box(image, spec.size)], spec.size)
        compare_counts(row, image)


def compare_training_batches(source, spec, rules, listing, expected):
    """A box of all of an image, or of its middle square, and the image that stands in for a broken one."""
    count = len(source)
    number = {name: i for i, name in enumerate(listing.classes)} | {None: -1}
    options = dict(image_size=(spec.size, spec.size), channels=spec.channels, rules=rules)
    options |= dict(shuffle=False, scale=(1, 1), ratio=(1, 1), threads=2, workers=spec.workers)
    with make_loader(source, batch_size=count, seed=1, **options) as loader:
        batch = next(loader)
    labels = [record.label for record in listing.records]
    for index in range(count):
        row = {name: array[index] for name, array in batch.items()}
        following = [(index + i) % count for i in range(count)]
        same = [i for i in following if labels[i] is not None and labels[i] == labels[index]]
        tried = list(dict.fromkeys([index, *same, *following]))
        good = [i for i in tried if expected[i] is not None]
        image = expected[good[0]] if good else None
        assert row["index"] == index
        assert row["num_undecodable"] == (tried.index(good[0]) if good else count)
        assert row["label"] == (number[labels[good[0]]] if good else -1)
        compare_pixels(row["image"], image, square_boxes(image), spec.size)
        compare_counts(row, image)


def center_box(image, size):
    """(left, top, width, height) of the middle of an image whose short side becomes `size`."""
    if image is None:
        return None
    height, width = image.exact.shape[:2]
    long = int(size * max(height, width) / min(height, width))
    full_h, full_w = (long, size) if height > width else (size, long)
    left, top = round((full_w - size) / 2), round((full_h - size) / 2)
    x, y = width / full_w, height / full_h
    return left * x, top * y, size * x, size * y


def square_boxes(image):
    """The boxes of the largest squares that `random_crop_box` may draw: the middle, or anywhere."""
    if image is None:
        return []
    height, width = image.exact.shape[:2]
    side = min(height, width)
    if round((height * width) ** 0.5) > side:
        return [((width - side) // 2, (height - side) // 2, side, side)]
    return [(x, y, side, side) for x in range(width - side + 1) for y in range(height - side + 1)]


def compare_pixels(found, image, boxes, size):
    """The pixels are those of one of the boxes."""
    if image is None:
        assert not found.any()
        return
    differences = [difference(found, image, box, size) for box in boxes]
    assert min(differences) <= 1, differences


def difference(found, image, box, size):
    """The largest difference to a box of an image, relative to what is allowed."""
    white, allowed, exact = WHITE[found.dtype.name], image.allowed, image.exact
    left, top, width, height = box
    if (width, height) == (size, size):
        expected = exact[round(top) :, round(left) :][:size, :size]
    else:
        if isinstance(left, int):  # nothing outside of a crop counts
            exact, left, top = exact[top : top + height, left : left + width], 0, 0
        expected, inside = resize(exact, (left, top, width, height), size, white)
        allowed = RESIZED * white + allowed if inside else white
    return np.abs(found - expected).max() / allowed


def compare_counts(row, image):
    if "value_counts" in row and (image is None or image.counts is not None):
        counts = (0, 0, 0, 0) if image is None else image.counts
        np.testing.assert_array_equal(row["value_counts"][:4], counts)


def test_data_sets_are_functions_of_their_numbers(tmp_path):
    specs = [make_data_set(3, str(tmp_path / name)) for name in "ab"]
    files = [sorted(x for _, _, names in os.walk(tmp_path / name) for x in names) for name in "ab"]
    assert files[0] == files[1] and specs[0][1:] == specs[1][1:]
