"""Pictures of segmentations."""

import numpy as np
from PIL import Image

from fastmim_jax.evaluate.segmentation.overlay import class_colors, depth_picture, overlay, write_rows


def test_pictures(tmp_path):
    colors = class_colors(150)
    assert len(np.unique(colors[:12], axis=0)) == 12 and colors.dtype == np.uint8
    image, mask = np.full((4, 6, 3), 100, np.uint8), np.zeros((4, 6), int)
    mask[0] = -1
    painted = overlay(image, mask, colors)
    assert (painted[0] == 100).all() and (painted[1:] == painted[1, 0]).all() and (painted[1] != 100).any()
    depth = depth_picture(np.array([[-1.0, 1.0, 10.0]]), 10.0)
    assert depth[0, 0, 0] == 0 and depth[0, 1, 0] > depth[0, 2, 0] > 0
    write_rows(tmp_path / "a" / "b.png", [[image, painted], [image]])
    assert Image.open(tmp_path / "a" / "b.png").size == (16, 12)
