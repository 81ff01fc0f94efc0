"""The table of dense probes as arrays."""

import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.dense_probes.patch_features import COLORS
from fastmim_jax.evaluate.dense_probes.table import DenseLine, DenseTable

SEGMENTATION = {"mIoU": 0.4, "pixels": 0.8}
TABLE = DenseTable(
    "runs/mine",
    "whole images",
    [
        DenseLine(
            "segmentation", "block 1", {**SEGMENTATION, "mIoU": 0.3}, 0.3, "rate", [0.2, np.nan, 0.4]
        ),
        DenseLine("segmentation", "block 2", SEGMENTATION, 0.5, "rate", [0.3, 0.4, 0.5]),
        DenseLine("segmentation", COLORS, SEGMENTATION, 0.9, "rate", [0.4, 0.4, 0.4]),
        DenseLine("segmentation", "always wall", SEGMENTATION),
        DenseLine("depth", "block 1", {"d1": 0.7}, 0.6),
    ],
    ("wall", "sky", "tree"),
)


def test_arrays_have_a_row_per_line():
    assert len(TABLE) == len(list(TABLE)) == len(TABLE.kinds) == 5 and TABLE.layers[1] == "block 2"
    np.testing.assert_array_equal(TABLE.scores("mIoU"), [0.3, 0.4, 0.4, 0.4, np.nan])
    np.testing.assert_array_equal(TABLE.scores("d1"), [np.nan] * 4 + [0.7])
    np.testing.assert_array_equal(TABLE.held_out, [0.3, 0.5, 0.9, np.nan, 0.6])
    assert TABLE.iou.shape == (5, 3) and TABLE.iou[1, 2] == 0.5 and np.isnan(TABLE.iou[3:]).all()
    assert "block 2" in repr(TABLE) and "40.00%" in repr(TABLE)


def test_the_best_layer_is_no_baseline():
    assert TABLE.best("segmentation").layer == "block 2" and TABLE.best("depth").scores == {"d1": 0.7}
    with pytest.raises(UserError, match="no probe 'knn_segmentation'; choose from: segmentation, depth"):
        TABLE.best("knn_segmentation")
    with pytest.raises(UserError, match="no score 'miou'; choose from: mIoU, pixels, d1"):
        TABLE.scores("miou")


def test_json_has_null_for_nan():
    content = TABLE.to_json()
    assert content["dense"][0]["iou"] == [0.2, None, 0.4] and content["dense"][3]["held_out"] is None
    assert content["classes"] == ["wall", "sky", "tree"]
