"""The range of values of a data set, measured or declared, and the dtype of its pixels."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from fastmim_jax.data.decide_values import compare_ranges, decide_values
from fastmim_jax.data.decode import decode
from fastmim_jax.data.limits import DecodeRules
from fastmim_jax.data.value_scan import scan_values
from fastmim_jax.errors import UserError

RNG = np.random.default_rng(0)


class Records(list):
    """A source of arrays or files."""

    classes, notices = (), ()
    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)

    def name(self, index):
        return f"{index}.tif"


def tiff(values, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="minisblack", **options)
    return file.getvalue()


def jpeg():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return file.getvalue()


def test_a_scan_measures_every_channel_without_missing_values():
    values = RNG.uniform(0, 1, (20, 30, 40, 2)) * [1, 100]
    values[3, :5, 0, 0], values[4, 0, :3, 1], values[5, 0, 0, 1] = -9999, np.nan, 1e6
    source = Records(tiff(image.astype(np.float32), planarconfig="contig") for image in values)
    source[7] = b"broken"
    scan = scan_values(source, 2, DecodeRules(nodata=(-9999,)))
    assert (scan.records, scan.scanned, scan.unreadable, scan.kinds) == (20, 20, 1, {"float32": 19})
    assert (scan.values, scan.nodata, scan.not_finite) == (19 * 2400, 5, 3)
    assert scan.lowest == pytest.approx((0, 0), abs=0.1) and scan.highest == pytest.approx(
        (1, 1e6), rel=1e-2
    )
    assert scan.low_percentile == pytest.approx((0.001, 0.1), rel=0.5)
    assert scan.high_percentile == pytest.approx((0.999, 99.9), rel=0.01)
    assert scan.value_range == (min(scan.low_percentile), max(scan.high_percentile))  # but for the outlier


def test_a_large_data_set_is_scanned_in_part():
    source = Records([np.full((2, 2, 1), value, np.int16) for value in range(1001)])
    scan = scan_values(source, 1, DecodeRules(), most=11)
    assert source.reads == scan.scanned == 11 and (scan.lowest, scan.highest) == ((0,), (1000,))


@pytest.mark.parametrize(
    ("dtype", "low", "high", "pixels"),
    [
        ("uint16", 0, 4095, "uint16"),
        ("int16", -1024, 3071, "uint16"),
        ("int32", -5, 2**20, "float32"),
        ("float32", -30, 5, "float32"),
    ],
)
def test_a_range_is_measured_where_images_have_more_than_8_bits(dtype, low, high, pixels):
    ramp = np.linspace(low, high, 100).reshape(10, 10, 1).astype(dtype)
    decided = decide_values(Records([ramp, ramp]), 1, DecodeRules())
    assert decided.rules == DecodeRules(value_range=(low, high), dtype=pixels)
    assert decided.sentences[0].startswith(
        f"{dtype}; range {low:g} to {high:g}, measured on 2 of 2 records"
    )
    declared = decide_values(Records([ramp, ramp]), 1, DecodeRules(value_range=(-1, 1), dtype="uint8"))
    assert declared.rules == DecodeRules(value_range=(-1, 1), dtype="uint8")
    assert "range -1 to 1, declared; the network gets uint8" in declared.sentences[0]


def test_8_bits_need_no_range():
    decided = decide_values(
        Records([jpeg(), np.zeros((4, 4, 3), np.uint8)]), 3, DecodeRules(value_range=(0, 9))
    )
    assert decided.rules == DecodeRules(dtype="uint8")
    assert "is not used" in decided.sentences[1]


def test_depths_that_do_not_mean_the_same_are_refused():
    source = Records([jpeg(), tiff(np.zeros((4, 4), np.uint16))])
    with pytest.raises(
        UserError, match=r"other depths \(1 uint8 such as 0.tif\) beside uint16 \(1 of 2 records"
    ):
        decide_values(source, 3, DecodeRules())
    full = DecodeRules(value_range=(0, 65535))
    assert decide_values(source, 3, full).rules.dtype == "uint16"


def test_rare_images_of_another_depth_are_refused_by_name():
    few, png = Records([jpeg()] * 9 + [tiff(np.zeros((4, 4), np.uint16))]), io.BytesIO()
    decided = decide_values(few, 3, DecodeRules())
    assert decided.rules == DecodeRules(dtype="uint8")
    assert decided.sentences[1].endswith("listed as undecodable: 1 uint16 such as 9.tif")
    Image.fromarray(np.full((4, 4), 0x4000, np.uint16)).save(png, "PNG")  # white is 65535 by the standard
    decided = decide_values(Records([jpeg(), jpeg(), png.getvalue()]), 3, DecodeRules())
    assert len(decided.sentences) == 1 and (decode(png.getvalue(), 3, decided.rules) == 0x40).all()
    many = Records(
        [*[np.full((4, 4, 1), level, np.int16) for level in range(9)], np.zeros((4, 4, 1), np.uint8)]
    )
    decided = decide_values(many, 1, DecodeRules())
    assert decided.rules.value_range == (0, 8) and decided.sentences[-1].endswith("1 uint8 such as 9.tif")


def test_nothing_is_decided_where_nothing_can_be_read():
    assert decide_values(Records([b"x"]), 3, DecodeRules()).rules == DecodeRules()


def test_another_range_is_told():
    scan = scan_values(Records([np.linspace(0, 4095, 100).reshape(10, 10, 1)]), 1, DecodeRules())
    assert compare_ranges(scan, (0, 4095)) is None and compare_ranges(scan, (-100, 5000)) is None
    assert compare_ranges(scan, (0, 65535)).startswith("4.095 to 4090.9")
    assert compare_ranges(scan, (0, 1000)) is not None
